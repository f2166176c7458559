"""Labelled images from a folder, a tar or a named dataset, checked before anything is trained on them."""
import sys
from pathlib import Path
from typing import Any, BinaryIO, Callable, List, Optional, Sequence, Tuple, Union

from PIL import Image

from iebn_zoo.data.folder import FolderSource, folders_with_images, has_class_folders
from iebn_zoo.data.formats import CorruptImageError, corrupt, decode, to_mode, unreadable
from iebn_zoo.data.listing import some_of
from iebn_zoo.data.named import TRAIN_NAMES, VAL_NAMES, NamedSource, is_folder
from iebn_zoo.data.tar import TarSource
from iebn_zoo.util.errors import UsageError

__all__ = [
    'TRAIN_NAMES', 'VAL_NAMES', 'CorruptImageError', 'ImageSubset', 'LabelledImages', 'open_images', 'split_path']


class LabelledImages:
    """Images, decoded when they are read, and class indices, by position.

    Attributes:
        class_names: The names in the order of the indices, or None where the source has none.
        mode: The PIL mode of the images, 'RGB' or 'L'.
        digest: Tells whether two sources hold the same images, as far as that is known without reading them.
    """

    def __init__(self, source: Any, class_names: Optional[Sequence[str]], mode: str) -> None:
        self.source = source
        self.class_names = None if class_names is None else list(class_names)
        self.mode = mode
        self._targets: Optional[List[int]] = None
        if hasattr(source, 'listing'):  # a folder or tar; a named dataset numbers its classes itself
            numbers = {name: i for i, name in enumerate(self.class_names or ())}
            self._targets = [numbers[member.label] for member in source.listing.images]
            self.digest = source.listing.digest()
        else:
            self.digest = source.digest()

    def __len__(self) -> int:
        return len(self.source) if self._targets is None else len(self._targets)

    def read(self, index: int) -> Tuple[Image.Image, int]:
        """Read image number ``index`` in ``mode``, and its class.

        Raises:
            CorruptImageError: It cannot be decoded.
            IEBNZooError: It cannot be read.
        """
        name = self.source.name(index)
        if self._targets is not None:
            return self._decoded(lambda: self.source.open(index), name), self._targets[index]
        try:
            image, target = self.source.read(index)
            if isinstance(image, Image.Image):  # torchvision has opened it
                return to_mode(image, self.mode), int(target)
        except Exception as e:  # what torchvision's and the Hub's readers throw
            raise corrupt(name, e) from e
        return self._decoded(lambda: image, name), int(target)

    def targets(self) -> List[int]:
        """Return the class index of each image; the images are not read."""
        return list(self.source.targets() if self._targets is None else self._targets)

    def check_outside(self, place: Union[str, Path], flag: str) -> None:
        """Check that what is written to ``place`` does not become one of the images, or a class of them.

        Args:
            place: A directory that is going to be written, or its path.
            flag: The flag that names it, for the message.

        Raises:
            UsageError: It lies in the folder of the images.
        """
        root = getattr(self.source, 'root', None)  # of a folder
        if root is not None and Path(place).resolve().is_relative_to(root.resolve()):
            raise UsageError(f'{flag} {place} lies in the folder of the images, {root}: what is written there would '
                             f'count as images.\nGive a directory outside it.')

    def _decoded(self, opened: Callable[[], BinaryIO], name: str) -> Image.Image:
        try:
            file = opened()
        except OSError as e:
            raise unreadable(name, e) from e
        with file:
            return decode(file, self.mode, name)


class ImageSubset(LabelledImages):
    """Some images of ``images``, with positions from 0."""

    def __init__(self, images: LabelledImages, indices: Sequence[int]) -> None:
        # not through the parent's constructor: it would list the source again
        self.source, self.class_names, self.mode = images.source, images.class_names, images.mode
        self.digest = images.digest
        self.images = images
        self.indices = list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> Tuple[Image.Image, int]:
        """Read image number ``index`` of the subset, and its class."""
        return self.images.read(self.indices[index])

    def targets(self) -> List[int]:
        """Return the class index of each image of the subset."""
        every = self.images.targets()
        return [every[i] for i in self.indices]


def open_images(
        name: str,
        root: Optional[str],
        train: bool,
        split: Optional[str] = None,
        download: bool = False,
        mode: str = 'RGB',
        class_names: Optional[Sequence[str]] = None,
        whole: bool = False,
) -> LabelledImages:
    """Open one split.

    Args:
        name: The timm name of a dataset; '' for a folder or tar.
        root: The directory of the data.
        train: Open the training split, else the split to evaluate on.
        split: The name of the split, instead of the usual ones.
        download: Allow a named dataset to download.
        mode: The PIL mode, 'RGB' or 'L'.
        class_names: The classes of the model, in order. The classes of a folder or tar are numbered by them, and it may
            have no others; a named dataset numbers its classes itself.
        whole: Open ``root`` itself where it has no such split and is a folder of class folders.

    Raises:
        UsageError: No such directory or split, a folder that may be a split or a class, no images, images outside
            class folders, a class folder without images, a single class, or one that is not among ``class_names``.
        IEBNZooError: The data cannot be read.
    """
    if not root:
        raise UsageError('no --data-dir given.\nExpected a directory with the images.')
    if not is_folder(name):
        source = NamedSource(name, root, train, split, download)
        return LabelledImages(source, source.class_names, mode)
    path = _find_split(Path(root), split, train, whole, class_names)
    source = FolderSource(path) if path.is_dir() else TarSource(path)
    if source.listing.left_out:
        print(f'note: {source.listing.left_out}', file=sys.stderr, flush=True)
    found = source.listing.class_names
    if class_names is None:
        if len(found) == 1:
            raise UsageError(f'{path} has a single class, {found[0]}: nothing to tell apart.\n'
                             f'Expected a folder per class directly below {path}.')
        return LabelledImages(source, found, mode)
    unknown = [name for name in found if name not in class_names]
    if unknown:
        raise UsageError(
            f'{path} has a class {unknown[0]!r} that is not among the {len(class_names)} known ones.\n'
            f'Evaluation and training data need the same class folders.')
    return LabelledImages(source, class_names, mode)


def split_path(root: Union[str, Path], name: str) -> Optional[Path]:
    """Return the folder or tar of a split, or None."""
    return next((p for p in (Path(root) / name, Path(root) / f'{name}.tar') if p.exists()), None)


def _find_split(
        root: Path, split: Optional[str], train: bool, whole: bool, class_names: Optional[Sequence[str]]) -> Path:
    if not root.exists():
        raise UsageError(f'no such directory: {root}.\nGive --data-dir a directory with the images.')
    usual = TRAIN_NAMES if train else VAL_NAMES
    names = (split,) if split else usual
    found = next((path for path in (split_path(root, name) for name in names) if path is not None), None)
    named = [path for path in (split_path(root, name) for name in (*TRAIN_NAMES, *VAL_NAMES)) if path is not None]
    if not split and (found or whole and named):
        # a training that holds images out needs no split to evaluate on, which would show that the other is one as well
        evaluated = found is not None and any(split_path(root, name) for name in VAL_NAMES)
        _check_name(root, found or named[0], train, class_names, unsure=whole and train and not evaluated)
    if found is not None:
        return found
    if whole and root.is_dir() and not named:
        return root  # whose listing says what is wrong with it
    if root.is_dir() and not named and has_class_folders(root):
        raise UsageError(
            f'{root} has no {names[0]} split; its folders look like classes.\n'
            f'Train on them with --holdout 0.1, which evaluates on a tenth of each class; or sort the images into '
            f'{root}/train/CLASS/ and {root}/val/CLASS/. After a training with --holdout, validate --held-out '
            f'evaluates on the images that it held out; validate --val-split . evaluates on all.')
    raise UsageError(
        f'{root} has no {names[0]} split.\nExpected a folder or tar of one of the names: {", ".join(names)}.')


def _check_name(
        root: Path, path: Path, train: bool, class_names: Optional[Sequence[str]], unsure: bool) -> None:
    """Refuse a folder that has the name of a split and lies beside other folders with images: it may be a class.

    It is asked where nothing else shows that it is a split (``unsure``), or where a class is known to have its name.
    """
    if not path.is_dir() or not (unsure or path.name in (class_names or ())):
        return
    beside = folders_with_images(root, (*TRAIN_NAMES, *VAL_NAMES))
    if beside:
        flag = '--train-split' if train else '--val-split'
        raise UsageError(
            f'{path} may be a split or a class: images lie beside it too, in {some_of(beside)}.\n'
            f'Say which: {flag} {path.name} takes it as the split, and {flag} . takes each folder of {root} as a '
            f'class.')
