"""Results that a flag puts somewhere: whether they can be written there, and what they may replace.

A command asks before it computes, so that no result of hours is lost for a name that was wrong. A result replaces an
earlier result of its own kind and no other file.
"""
import errno
import os
import tempfile
from pathlib import Path
from typing import Mapping, NamedTuple, NoReturn, Sequence, Union

from iebn_zoo.util.csv_files import csv_text
from iebn_zoo.util.errors import IEBNZooError, UsageError

_HEAD = 4096  # bytes of a file that are looked at
_PNG = b'\x89PNG\r\n\x1a\n'


class Kind(NamedTuple):
    """A kind of result, which the first bytes of its files tell.

    Attributes:
        name: What messages call it, such as ``'a table of predictions'``.
        begin: What each of its files begins with.
        holds: What stands further on in the first 4096 bytes.
    """

    name: str
    begin: bytes
    holds: bytes = b''

    def wrote(self, path: Path) -> bool:
        """Tell whether the file ``path`` is a result of this kind. An empty file is of no kind.

        Raises:
            OSError: It cannot be read.
        """
        with open(path, 'rb') as file:
            head = file.read(_HEAD)
        begins = head.startswith(self.begin) or head.replace(b'\r\n', b'\n').startswith(self.begin)  # of Windows
        return begins and self.holds in head


ANYTHING = Kind('anything', b'')  # for a command that has another rule, such as a flag --overwrite


def table_kind(name: str, columns: Sequence[str]) -> Kind:
    """Return the kind of a CSV file with the header ``columns``."""
    return Kind(name, csv_text(columns, ()).encode())


def picture_kind(name: str) -> Kind:
    """Return the kind of a PNG whose metadata have ``name`` as the title, see ``iebn_zoo.plots.style.save``."""
    return Kind(name, _PNG, b'tEXtTitle\0' + name.encode('latin-1'))


def check_file(flag: str, path: Union[str, Path], kind: Kind) -> None:
    """Check that ``path``, which ``flag`` names, can be written and replaces nothing but a result of ``kind``.

    Raises:
        UsageError: It is a directory or a device, its directory is missing, or it is another file.
        IEBNZooError: It cannot be written.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UsageError(f'{path} is a directory.\nGive {flag} the name of a file.')
        if not path.parent.is_dir():
            raise UsageError(f'{path} would lie in {path.parent}, which is no directory.\nMake it, or give {flag} '
                             f'another place.')
        _check_replaced(flag, path, kind)
        _try(path)
    except OSError as e:
        cannot_write(flag, path, e)


def check_picture(flag: str, path: Union[str, Path], kind: Kind) -> None:
    """Check a PNG as ``check_file`` does, and that its name says what it is: no other format is written.

    Raises:
        UsageError: See ``check_file``; or the name does not end in .png.
        IEBNZooError: It cannot be written.
    """
    if Path(path).suffix.lower() != '.png':
        raise UsageError(f'{flag} is {path}, expected the name of a PNG file.\nGive it a name that ends in .png.')
    check_file(flag, path, kind)


def check_directory(flag: str, path: Union[str, Path], files: Mapping[str, Kind]) -> None:
    """Check that results can be written into the directory ``path``, which ``flag`` names and which may be missing.

    Args:
        flag: The flag.
        path: The directory.
        files: The kind of each file that will be written there, by its name.

    Raises:
        UsageError: It is a file or lies in one, or one of ``files`` is there and is another file.
        IEBNZooError: It cannot be made or written.
    """
    path = Path(path)
    try:
        found = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
        if not found.is_dir():
            raise UsageError(f'{found} is no directory.\nGive {flag} a directory.')
        for name, kind in files.items():
            _check_replaced(flag, path / name, kind)
        names = [*files, path.name if found != path else '_']
        _try(found / max(names, key=len))
    except OSError as e:
        cannot_write(flag, path, e)


def check_new(flag: str, path: Union[str, Path]) -> None:
    """Check that the directory ``path``, which ``flag`` names, can be made, with those above it, and renamed.

    Raises:
        UsageError: It would lie in a file.
        IEBNZooError: It cannot be made.
    """
    path = Path(path).absolute()
    check_directory(flag, path.parent, {path.name: ANYTHING})


def cannot_write(flag: str, path: Path, error: OSError) -> NoReturn:
    """Raise IEBNZooError: ``path``, which ``flag`` names, cannot be written for the reason of ``error``."""
    advice = {errno.ENAMETOOLONG: 'a shorter name', errno.ENOSPC: 'a place with room'}
    raise IEBNZooError(f'cannot write {path}: {error.strerror or error}.\n'
                       f'Give {flag} {advice.get(error.errno or 0, "a writable place")}.') from error


def _check_replaced(flag: str, path: Path, kind: Kind) -> None:
    if kind is ANYTHING or not path.exists():
        return
    if not path.is_file():  # such as /dev/null, which a rename would replace
        raise UsageError(f'{path} is no regular file.\nGive {flag} another name.')
    if path.stat().st_size and not kind.wrote(path):
        old = ', or is one of an earlier version' if kind.begin == _PNG else ''  # which gave pictures no title
        raise UsageError(f'{path} is there, and is not {kind.name}{old}.\nMove it away, or give {flag} another name.')


def _try(path: Path) -> None:
    # the mode of a directory says too little: of a file system that is read-only, a quota, or the length of a name
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f'.{path.name}.', suffix='.tmp'):
        pass
