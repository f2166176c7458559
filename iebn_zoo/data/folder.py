"""A folder of class folders."""
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, FrozenSet, Iterator, List, Sequence, Tuple

from iebn_zoo.data.formats import image_suffixes, is_image_name, is_other_name
from iebn_zoo.data.listing import Listing, Member, is_hidden, make_listing, natural_key
from iebn_zoo.util.errors import IEBNZooError, UsageError


class FolderSource:
    """The images of one folder.

    Args:
        root: The directory of the split.

    Raises:
        UsageError: It is no split of class folders (see ``make_listing``), a link in it leads nowhere or to a folder
            around it, or something in it is neither a file nor a folder.
        IEBNZooError: A folder cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        suffixes = image_suffixes()  # once: it takes a while
        folders = sorted(entry.name for entry in _entries(root) if _is_folder(entry, suffixes))
        self.listing: Listing = make_listing(_walk(root, '', frozenset(), suffixes), str(root), folders)

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


def folders_with_images(root: Path, without: Sequence[str] = ()) -> List[str]:
    """Return the names of the folders directly below ``root`` that hold images, at any depth.

    Args:
        root: A directory.
        without: Names that are left out.
    """
    suffixes, found = image_suffixes(), []
    for entry in _entries(root):
        with suppress(IEBNZooError):  # what is wrong with a folder that nobody asked for matters to nobody
            if entry.name not in without and _is_folder(entry, suffixes):
                members = _walk(Path(entry.path), '', frozenset(), suffixes)
                found.extend([entry.name] if any(is_image_name(m.path, suffixes) for m in members) else [])
    return sorted(found, key=natural_key)


def images_below(directory: Path) -> List[str]:
    """List the images below a directory, at any depth and through links to folders, in the order of names.

    Raises:
        UsageError: A link leads nowhere or to a folder around it, or what has the name of an image is no file.
        IEBNZooError: A folder cannot be read.
    """
    suffixes = image_suffixes()
    found = [m.path for m in _walk(directory, '', frozenset(), suffixes) if is_image_name(m.path, suffixes)]
    return [os.path.join(directory, path) for path in sorted(found, key=natural_key)]


def _entries(directory: Path) -> List[os.DirEntry]:
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as e:
        raise IEBNZooError(f'cannot read the folder {directory}: {e.strerror or e}.\nMake it readable.') from e


def _walk(
        directory: Path, prefix: str, around: FrozenSet[Tuple[int, int]], suffixes: FrozenSet[str],
) -> Iterator[Member]:
    status = os.stat(directory)
    here = (status.st_dev, status.st_ino)
    if here in around:
        raise UsageError(f'{directory} is a link to a folder around it, which has no end of images.\n'
                         f'Remove the link.')
    for entry in _entries(directory):
        path = f'{prefix}{entry.name}'
        if _is_folder(entry, suffixes):
            yield from _walk(Path(entry.path), f'{path}/', around | {here}, suffixes)
        elif is_other_name(entry.name, suffixes):  # never read, whatever it is
            yield Member(path, 0, path)
        else:
            found = _followed(entry)
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f'{entry.path} is neither a file nor a folder.\nRemove it from the images.')
            yield Member(path, found.st_size, path)


def _is_folder(entry: os.DirEntry, suffixes: FrozenSet[str]) -> bool:
    if is_other_name(entry.name, suffixes):
        return entry.is_dir()  # wherever a link of this name leads
    return stat.S_ISDIR(_followed(entry).st_mode)


def _followed(entry: os.DirEntry) -> os.stat_result:
    try:
        return entry.stat()
    except OSError as e:
        # to leave it out would train on fewer images, or on a class less, than the user sees in the folder
        advice = 'Mend the link, or remove it.' if entry.is_symlink() else 'Remove it, and start again.'
        raise UsageError(f'{entry.path} cannot be followed: {e.strerror or e}.\n{advice}') from e
