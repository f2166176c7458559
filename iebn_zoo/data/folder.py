"""A folder of class folders."""
import os
from pathlib import Path
from typing import BinaryIO, FrozenSet, Iterator, List, Tuple

from iebn_zoo.data.listing import Listing, Member, is_hidden, make_listing
from iebn_zoo.util.errors import IEBNZooError, UsageError


class FolderSource:
    """The images of one folder.

    Args:
        root: The directory of the split.

    Raises:
        UsageError: It is no split of class folders (see ``make_listing``), or a link in it leads to a folder around it.
        IEBNZooError: A folder cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        folders = sorted(entry.name for entry in _entries(root) if entry.is_dir())
        self.listing: Listing = make_listing(_walk(root, '', frozenset()), str(root), folders)

    def open(self, index: int) -> BinaryIO:
        """Open image number ``index``."""
        return open(self.root / self.listing.images[index].place, 'rb')

    def name(self, index: int) -> str:
        """Return the path of image number ``index``."""
        return str(self.root / self.listing.images[index].path)


def has_class_folders(root: Path) -> bool:
    """Say whether ``root`` is itself a folder of class folders with images, for messages and ``--holdout``."""
    try:
        return len(FolderSource(root).listing.class_names) > 1
    except IEBNZooError:
        return False


def _entries(directory: Path) -> List[os.DirEntry]:
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as e:
        raise IEBNZooError(f'cannot read the folder {directory}: {e.strerror or e}.\nMake it readable.') from e


def _walk(directory: Path, prefix: str, around: FrozenSet[Tuple[int, int]]) -> Iterator[Member]:
    stat = os.stat(directory)
    here = (stat.st_dev, stat.st_ino)
    if here in around:
        raise UsageError(f'{directory} is a link to a folder around it, which has no end of images.\n'
                         f'Remove the link.')
    for entry in _entries(directory):
        path = f'{prefix}{entry.name}'
        if entry.is_dir():
            yield from _walk(Path(entry.path), f'{path}/', around | {here})
        elif entry.is_file():  # follows links; a link that leads nowhere is neither
            yield Member(path, entry.stat().st_size, path)
