"""A progress bar for people at a terminal; silence elsewhere."""
import os
import sys
from typing import Any, Iterable, Iterator

from tqdm import tqdm


class Progress:
    """Iterate with a tqdm bar on the first process, if stderr is a terminal.

    Args:
        items: What to iterate over; its length is the bar's.
        title: Left of the bar.
    """

    def __init__(self, items: Iterable, title: str) -> None:
        quiet = os.environ.get('RANK', '0') != '0' or not sys.stderr.isatty()
        self.bar = tqdm(items, desc=title, leave=False, disable=quiet, dynamic_ncols=True, unit='batch')

    def __iter__(self) -> Iterator[Any]:
        return iter(self.bar)

    def show(self, **values: Any) -> None:
        """Put values to the right of the bar."""
        if not self.bar.disable:
            self.bar.set_postfix(values, refresh=False)
