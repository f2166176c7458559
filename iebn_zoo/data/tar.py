"""A tar of class folders, and a tar of one tar per class."""
import io
import os
import posixpath
import tarfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Dict, Set, Tuple

from iebn_zoo.data.formats import image_suffixes, is_image_name, is_other_name
from iebn_zoo.data.listing import Listing, Member, is_hidden, make_listing
from iebn_zoo.util.errors import UsageError

# types of GNU tar that tarfile does not know: a folder of an incremental backup, and the label of the archive
_DUMP, _LABEL = b'D', b'V'


class TarSource:
    """The images of one tar, read by their positions in it: processes do not share a place in the file.

    The names in the tar may begin with ``./``, and with one folder that has the name of the tar. A tar inside the tar
    counts as a folder of its name. A link to a file of the same tar counts as that file.

    Args:
        path: The path of the tar, which is not compressed.

    Raises:
        UsageError: It is no such tar, holds a link to something else, or no split of class folders; see
            ``make_listing``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            contents = _contents(path)
        except (tarfile.TarError, EOFError, OSError) as e:
            compressed = path.is_file() and _is_compressed(path)
            advice = 'Unpack it, and pack it again without compression.' if compressed else 'Pack it again.'
            raise UsageError(f'{path} cannot be read as a tar{" (it is compressed)" if compressed else ""}: '
                             f'{str(e).splitlines()[0] if str(e) else type(e).__name__}.\n{advice}') from e
        folders = [name for name in contents.folders if name and '/' not in name]
        self.listing: Listing = make_listing(contents.files.values(), str(path), folders)
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


@dataclass
class _Contents:
    """What a tar holds: its files by their names, and the names of its folders."""

    files: Dict[str, Member] = field(default_factory=dict)
    folders: Set[str] = field(default_factory=set)

    def without(self, folder: str) -> '_Contents':
        """Return the same with names below ``folder``, where all lies in it: as ``tar cf train.tar train`` packs it."""
        start = f'{folder}/'
        names = [name for name in (*self.files, *self.folders - {folder}) if not is_hidden(name)]  # macOS adds ._train
        if not all(name.startswith(start) for name in names) or not any('/' in n[len(start):] for n in self.files):
            return self
        below = {name: name[len(start):] for name in names}
        files = {below[name]: replace(self.files[name], path=below[name]) for name in self.files if name in below}
        return _Contents(files, {below[name] for name in self.folders if name in below})


def _contents(path: Path) -> _Contents:
    found = _Contents()
    with open(path, 'rb') as file:
        _add(found, file, path.name, '', 0, os.path.getsize(path))
    return found.without(path.stem)


def _add(found: _Contents, file: BinaryIO, shown: str, prefix: str, start: int, size: int) -> None:
    """Add to ``found`` what the tar holds that lies in ``file`` from ``start`` on, in ``size`` bytes."""
    files: Dict[str, Member] = {}  # the files in it, by their names; of those of a name the last is valid
    tars: Dict[str, Tuple[int, int]] = {}  # the tars in it
    links: Dict[str, Tuple[str, str]] = {}  # the symbolic links in it: where each leads, and what it says
    suffixes = image_suffixes()
    if prefix:
        found.folders.add(prefix[:-1])
    with tarfile.open(fileobj=_Window(file, start, size), mode='r:') as tar:
        for info in tar:
            name, target = f'{prefix}{_plain(info.name)}', f'{prefix}{_plain(info.linkname)}'
            if info.isdir() or info.type == _DUMP:
                found.folders.update([name] if _plain(info.name) else [])
            if info.isdir() or info.type in (_DUMP, _LABEL) or info.islnk() and target == name:
                continue  # a name that is given twice to tar is a link to itself the second time
            for earlier in (files, tars, links):
                earlier.pop(name, None)
            place = (start + info.offset_data, info.size)
            if any(is_hidden(part) for part in name.split('/')) or is_other_name(name, suffixes):
                files[name] = Member(name, info.size, place)  # never read, whatever it is
            elif info.issym():
                links[name] = (posixpath.join(posixpath.dirname(info.name), info.linkname), info.linkname)
            elif info.islnk():
                files[name] = _linked(files, shown, name, target, info.linkname)
            elif not info.isreg() or info.issparse():
                kind = 'a sparse file, with its zeros left out' if info.issparse() else 'neither a file nor a folder'
                raise UsageError(f'{name} in {shown} is {kind}.\nPack the tar again, without it or with its content.')
            elif name.lower().endswith('.tar'):
                tars[name] = place
            else:
                files[name] = Member(name, info.size, place)
    for name, (place, said) in links.items():
        target, passed = prefix + _plain(posixpath.normpath(place)), {name}
        while target in links and target not in passed:
            passed.add(target)
            target = prefix + _plain(posixpath.normpath(links[target][0]))
        files[name] = _linked(files, shown, name, target, said)
    twice = next((name for name in files if name in found.files and is_image_name(name, suffixes)), None)
    if twice is not None:
        raise UsageError(f'{twice} is there twice: in {shown} and beside it.\nPack the tar again, with one of them.')
    found.files.update(files)
    for name, (begin, length) in tars.items():
        _add(found, file, f'{shown}/{name}', f'{name[:-len(".tar")]}/', begin, length)


def _linked(files: Dict[str, Member], shown: str, name: str, target: str, said: str) -> Member:
    if target not in files:
        raise UsageError(f'{name} in {shown} is a link to {said}, and the tar holds no such file.\n'
                         f'Pack it again with tar --dereference.')
    return replace(files[target], path=name)


def _plain(name: str) -> str:
    return '/'.join(part for part in name.split('/') if part not in ('', '.'))


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

