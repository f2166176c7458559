"""Atomic writes: a reader never sees half of a file, even after a crash."""
import errno
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Iterator, Union

from iebn_zoo.util.errors import IEBNZooError


@contextmanager
def atomic_write(path: Union[str, Path], mode: str = 'wb', **kwargs: Any) -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path``; on a clean exit fsync it and rename it to ``path``.

    If the body raises, or the process dies, ``path`` keeps its previous content.

    Args:
        path: File to write.
        mode: ``'wb'`` or ``'w'``.
        **kwargs: Passed to ``open`` (``newline``, ...). Text is UTF-8.

    Raises:
        IEBNZooError: The file could not be written (disk full, read-only, no such directory).
    """
    path = Path(path)
    if 'b' not in mode:
        kwargs.setdefault('encoding', 'utf-8')
    temp = None
    try:
        fd, temp = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix='.tmp')
        with open(fd, mode, **kwargs) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _match_umask(temp)
        os.replace(temp, path)
        temp = None
        _sync_directory(path.parent)
    except OSError as e:
        raise IEBNZooError(
            f'cannot write {path}: {e.strerror or e}.\n'
            f'Expected a writable directory with free space; the old file is unchanged.'
        ) from e
    finally:
        if temp is not None and os.path.exists(temp):
            os.unlink(temp)


def _match_umask(path: str) -> None:
    # mkstemp makes files private to the user; they should have the mode of any other new file
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


def _sync_directory(directory: Path) -> None:
    # the rename is stored in the directory: without this a power cut can undo it
    if os.name != 'posix':
        return
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems lack it and do not need it
            raise
    finally:
        os.close(fd)


def write_text(path: Union[str, Path], text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8 with ``\\n`` line ends."""
    with atomic_write(path, 'w', newline='\n') as file:
        file.write(text)
