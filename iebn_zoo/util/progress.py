"""A progress bar at a terminal; no output elsewhere."""
import os
import sys
from typing import Any, Iterable, Iterator, Sized, Union

from tqdm import tqdm

_BAR = '{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}, ETA {remaining}{postfix}]'
_NAMES = {'img_s': 'img/s', 'top1': 'top-1'}
_FORMATS = {'img_s': '.0f', 'loss': '.3f', 'top1': '.2f', 'lr': '.4g'}


class Progress:
    """An iterable with a tqdm bar, which shows the time that remains; only on the first process and at a terminal.

    Args:
        items: Items to iterate over.
        title: Text left of the bar.
        done: Items of the same pass that an earlier process has finished. The bar starts behind them.
    """

    def __init__(self, items: Iterable, title: str, done: int = 0) -> None:
        quiet = os.environ.get('RANK', '0') != '0' or not sys.stderr.isatty()
        total = done + len(items) if isinstance(items, Sized) else None
        self.bar = tqdm(items, desc=title, leave=False, disable=quiet, dynamic_ncols=True, bar_format=_BAR,
                        initial=done, total=total)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.bar)

    def show(self, **values: Union[float, str]) -> None:
        """Put values to the right of the bar.

        Args:
            **values: ``img_s`` (images per second), ``loss``, ``top1`` (percent), ``lr``, or others as text.
        """
        if not self.bar.disable:
            self.bar.set_postfix({_NAMES.get(k, k): v if isinstance(v, str) else format(v, _FORMATS.get(k, ''))
                                  for k, v in values.items()}, refresh=False)
