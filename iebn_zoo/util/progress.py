"""A progress bar at a terminal; elsewhere, as in the log of a batch job, a line a minute."""
import os
import sys
from contextlib import suppress
from typing import Any, Iterable, Iterator, Sized, TextIO, Union

from tqdm import tqdm

_BAR = '{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}, ETA {remaining}{postfix}]'
_LINE = '{desc}: {percentage:.0f} %, {n_fmt}/{total_fmt} [{elapsed}, ETA {remaining}{postfix}]'
_UNKNOWN = '{desc}: {n_fmt} [{elapsed}{postfix}]'  # of a pass whose length is not known
SECONDS_PER_LINE = 60.0
_NAMES = {'img_s': 'img/s', 'top1': 'top-1'}
_FORMATS = {'img_s': '.0f', 'loss': '.3f', 'top1': '.2f', 'lr': '.4g'}


class Progress:
    """An iterable that shows on stderr what is done and what remains, on the first process alone.

    At a terminal it is a tqdm bar. A file or a pipe gets a line for each ``SECONDS_PER_LINE`` that a pass lasts, and
    nothing of a shorter one.

    Args:
        items: Items to iterate over.
        title: Text left of the bar.
        done: Items of the same pass that an earlier process has finished. The bar starts behind them.

    Attributes:
        shown: Whether this process shows anything.
        live: Whether it draws a bar at a terminal, so that a value may be computed for the bar alone.
    """

    def __init__(self, items: Iterable, title: str, done: int = 0) -> None:
        first, terminal = os.environ.get('RANK', '0') == '0', sys.stderr.isatty()
        self.shown, self.live = first, first and terminal
        total = done + len(items) if isinstance(items, Sized) else None
        look = _UNKNOWN if total is None else _BAR if terminal else _LINE
        if terminal:
            self.bar = tqdm(items, desc=title, leave=False, disable=not first, initial=done, total=total,
                            dynamic_ncols=True, bar_format=look)
        else:
            # miniters: tqdm looks at the clock after each item; position: it moves no cursor for another open bar
            self.bar = _WithoutThread(
                items, desc=title, leave=False, disable=not first, initial=done, total=total, bar_format=look,
                file=_Lines(sys.stderr), miniters=1, delay=SECONDS_PER_LINE, mininterval=SECONDS_PER_LINE, position=0)

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


class _WithoutThread(tqdm):
    """tqdm without the thread that repaints bars whose items are slow."""

    monitor_interval = 0


class _Lines:
    """A file for tqdm that makes a line of what it would paint over, and lets a line go that cannot be written.

    A full disk under a log is no reason to end a training.
    """

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, text: str) -> None:
        text = text.strip()  # of the carriage return, and of the spaces that wipe a bar out
        if text:
            with suppress(OSError, ValueError):
                self.file.write(text + '\n')

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self.file.flush()
