"""A tar of class folders, and a tar of one tar per class."""
import io
import os
import tarfile
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List

from iebn_zoo.data.listing import Listing, Member, make_listing
from iebn_zoo.util.errors import UsageError


class TarSource:
    """The images of one tar, read by their positions in it: processes do not share a place in the file.

    The names in the tar may begin with ``./``, and with one folder that has the name of the tar. A tar inside the tar
    counts as a folder of its name.

    Args:
        path: The path of the tar, which is not compressed.

    Raises:
        UsageError: It is no such tar, or no split of class folders; see ``make_listing``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            members = _unwrapped(list(_members(path)), path.stem)
        except (tarfile.TarError, EOFError, OSError) as e:
            compressed = path.is_file() and _is_compressed(path)
            advice = 'Unpack it, and pack it again without compression.' if compressed else 'Pack it again.'
            raise UsageError(f'{path} cannot be read as a tar{" (it is compressed)" if compressed else ""}: '
                             f'{str(e).splitlines()[0] if str(e) else type(e).__name__}.\n{advice}') from e
        self.listing: Listing = make_listing(members, str(path))
        self._files: Dict[int, int] = {}  # by process: after a fork each opens its own

    def open(self, index: int) -> BinaryIO:
        """Read image number ``index`` as a file in memory.

        Raises:
            OSError: The tar cannot be read, or has become shorter.
        """
        member = self.listing.images[index]
        offset, size = member.place
        content = os.pread(self._file(), size, offset)
        if len(content) < size:
            raise OSError(f'{self.path} ends within it')
        return io.BytesIO(content)

    def name(self, index: int) -> str:
        """Return the path of image number ``index``, after that of the tar."""
        return f'{self.path}/{self.listing.images[index].path}'

    def _file(self) -> int:
        pid = os.getpid()
        if pid not in self._files:
            self._files = {pid: os.open(self.path, os.O_RDONLY)}
        return self._files[pid]

    def __getstate__(self) -> dict:
        return dict(vars(self), _files={})  # for a process that is spawned


def _members(path: Path) -> Iterator[Member]:
    with open(path, 'rb') as file:
        yield from _of(file, '', 0, os.path.getsize(path))


def _of(file: BinaryIO, prefix: str, start: int, size: int) -> Iterator[Member]:
    with tarfile.open(fileobj=_Window(file, start, size), mode='r:') as tar:
        for info in tar:
            name = f'{prefix}{_plain(info.name)}'
            if not info.isreg():
                continue
            if name.lower().endswith('.tar'):
                yield from _of(file, f'{name[:-len(".tar")]}/', start + info.offset_data, info.size)
            else:
                yield Member(name, info.size, (start + info.offset_data, info.size))


def _plain(name: str) -> str:
    return '/'.join(part for part in name.split('/') if part not in ('', '.'))


def _unwrapped(members: List[Member], stem: str) -> List[Member]:
    # tar cf train.tar train
    if members and all(member.path.startswith(f'{stem}/') and member.path.count('/') > 1 for member in members):
        return [Member(member.path[len(stem) + 1:], member.size, member.place) for member in members]
    return members


def _is_compressed(path: Path) -> bool:
    with open(path, 'rb') as file:
        head = file.read(6)
    return head.startswith((b'\x1f\x8b', b'BZh', b'\xfd7zXZ\x00', b'\x28\xb5\x2f\xfd'))


class _Window(io.RawIOBase):
    """A part of a file, which tarfile reads as if it were a file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self.file, self.start, self.size, self.position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = base + offset
        return self.position

    def readinto(self, buffer: memoryview) -> int:
        self.file.seek(self.start + self.position)
        content = self.file.read(max(0, min(len(buffer), self.size - self.position)))
        buffer[:len(content)] = content
        self.position += len(content)
        return len(content)

