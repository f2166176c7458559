"""The listing of a split: its images, each with its class, in an order that is the same everywhere."""
import hashlib
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Iterable, Optional, Sequence, Tuple

from iebn_zoo.data.formats import image_suffixes, is_image_name
from iebn_zoo.util.errors import UsageError

_SHOWN = 3


@dataclass(frozen=True)
class Member:
    """A file of a split.

    Attributes:
        path: The path below the split, with ``/``.
        size: The size in bytes.
        place: What its source needs to open it.
    """

    path: str
    size: int
    place: Any

    @property
    def label(self) -> str:
        """The class: the first folder below the split."""
        return self.path.partition('/')[0]


@dataclass(frozen=True)
class Listing:
    """The images of a split.

    Attributes:
        images: The images, in order.
        class_names: The classes, in order.
        left_out: A line on the files that are no images, or None.
    """

    images: Tuple[Member, ...]
    class_names: Tuple[str, ...]
    left_out: Optional[str]

    def digest(self) -> str:
        """Return the SHA-256 of names, order and sizes of the images, in hexadecimal."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(f'{image.path}\0{image.size}\n'.encode('utf-8', 'surrogateescape'))
        return digest.hexdigest()


def natural_key(name: str) -> Tuple[Any, ...]:
    """Return a key that sorts ``a_2`` before ``a_10``: numbers by value, letters without case, then the name itself.

    Names that are equal but for the last part, such as ``a_1`` and ``a_01``, would otherwise stand in the order in
    which a file system or a hash gave them.
    """
    parts = re.split(r'([0-9]+)', name.lower())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def make_listing(members: Iterable[Member], where: str, folders: Sequence[str] = ()) -> Listing:
    """Make the listing of a split from its files.

    A class is the first folder below the split, however deep its images lie. Hidden files (a name that begins with a
    dot, and ``__MACOSX``) are left out.

    Args:
        members: All files, in any order.
        where: The split, for messages.
        folders: The names of the folders directly below the split; each must have images.

    Raises:
        UsageError: An image lies outside any class folder, there are no images, a folder has none, or two classes
            have names that look the same or are no text.
    """
    suffixes, images, others = image_suffixes(), [], Counter()
    for member in members:
        parts = member.path.split('/')
        if any(is_hidden(part) for part in parts):
            continue
        if is_image_name(parts[-1], suffixes):
            images.append(member)
        else:
            others[PurePosixPath(parts[-1]).suffix.lower() or 'no suffix'] += 1
    if not images:
        raise UsageError(f'no images in {where}{_but(others)}.\n'
                         f'Expected a folder per class with images that Pillow reads, such as .jpg, .png or .webp.')
    strays = sorted((m.path for m in images if '/' not in m.path), key=natural_key)
    if strays:
        raise UsageError(f'{_count(len(strays), "image")} in {where} {"lies" if len(strays) == 1 else "lie"} outside '
                         f'any class folder: {some_of(strays)}.\nMove each into the folder of its class, or remove it.')
    images.sort(key=lambda m: natural_key(m.path))
    names = tuple(sorted({m.label for m in images}, key=natural_key))
    _check_names(names, where)
    empty = sorted({f for f in folders if not is_hidden(f)} - set(names), key=natural_key)
    if empty:
        raise UsageError(f'the class folder {where}/{empty[0]} has no images.\nAdd some, or remove the folder.')
    left_out = f'{where}: skipped{_but(others)[len(" but"):]}' if others else None
    return Listing(tuple(images), names, left_out)


def some_of(names: Sequence[str]) -> str:
    """Write the first three of ``names``, and how many more there are: ``a, b, c and 2 more``."""
    return ', '.join(names[:_SHOWN]) + (f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else '')


def is_hidden(name: str) -> bool:
    """Say whether a file or folder of this name is left out."""
    return name.startswith('.') or name == '__MACOSX'


def _check_names(names: Sequence[str], where: str) -> None:
    seen = {}
    for name in names:
        try:
            name.encode('utf-8')
        except UnicodeEncodeError as e:
            shown = name.encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')
            raise UsageError(f'the class folder {shown} in {where} has a name that is not UTF-8.\n'
                             f'Rename it.') from e
        same = seen.setdefault(unicodedata.normalize('NFC', name), name)
        if same != name:
            raise UsageError(f'two class folders in {where} are called {name}: the same text in two Unicode forms.\n'
                             f'Put their images into one of them.')


def _but(others: Counter) -> str:
    if not others:
        return ''
    total = sum(others.values())
    kinds = ', '.join(f'{n} {suffix}' for suffix, n in others.most_common(_SHOWN))
    more = ', ...' if len(others) > _SHOWN else ''
    return f' but {_count(total, "file")} of {"another kind" if total == 1 else "other kinds"} ({kinds}{more})'


def _count(number: int, what: str) -> str:
    return f'{number:,} {what}{"" if number == 1 else "s"}'
