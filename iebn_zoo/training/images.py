"""Labelled images from a folder, a tar or a torchvision dataset, checked before anything is trained on them."""
from pathlib import Path
from typing import Any, List, Optional, Tuple, Union

from PIL import Image
from timm.data import create_dataset
from timm.data.readers import get_img_extensions

from iebn_zoo.errors import IEBNZooError, UsageError

TRAIN_NAMES = ('train', 'training')
VAL_NAMES = ('val', 'validation', 'valid', 'eval', 'test')


class CorruptImageError(IEBNZooError):
    """An image that cannot be decoded."""

    def __init__(self, message: str) -> None:
        # a loader process hands its error over as text with the traceback; the user is told the last part
        super().__init__(message.rpartition('CorruptImageError: ')[2].strip())


class LabelledImages:
    """Decoded images and class indices by position.

    Attributes:
        class_names: Names in the order of the indices, or None where the source has none.
    """

    def __init__(self, source: Any, class_names: Optional[List[str]], mode: str) -> None:
        self.source = source
        self.class_names = class_names
        self.mode = mode

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Tuple[Image.Image, int]:
        """Image number ``index`` in ``mode`` and its class.

        Raises:
            CorruptImageError: It cannot be decoded.
        """
        reader = getattr(self.source, 'reader', None)
        try:
            if reader is None:
                image, target = self.source[index]
                return image.convert(self.mode), int(target)
            file, target = reader[index]
            with file, Image.open(file) as image:
                return image.convert(self.mode), int(target)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:  # what PIL raises
            name = reader.filename(index) if reader is not None else f'number {index}'
            raise CorruptImageError(
                f'cannot decode the image {name}: {str(e).splitlines()[0] if str(e) else type(e).__name__}.\n'
                f'Replace or remove it, or pass over such images with --skip-corrupt.') from e


def open_images(
        name: str,
        root: Optional[str],
        train: bool,
        split: Optional[str] = None,
        download: bool = False,
        mode: str = 'RGB',
        class_names: Optional[List[str]] = None,
) -> LabelledImages:
    """Open one split.

    Args:
        name: timm dataset name; '' for a folder or tar.
        root: Directory of the data.
        train: Open the training split, else the one to evaluate on.
        split: Name of the split, instead of the usual ones.
        download: Allow a ``torch/`` dataset to download.
        mode: PIL mode, 'RGB' or 'L'.
        class_names: Classes and order to hold a folder or tar to: those the model was, or will be, trained on.

    Raises:
        UsageError: No such directory or split, no images, a class folder without images, an unknown class.
    """
    if not root:
        raise UsageError('no --data-dir given.\nExpected a directory with the images.')
    if name and not name.startswith('torch/'):
        raise UsageError(
            f'unknown --dataset {name!r}.\nExpected torch/NAME, such as torch/cifar100, or none for a folder.')
    if name:
        source = _open_torch(name, root, train, download)
        return LabelledImages(source, list(getattr(source, 'classes', [])) or None, mode)
    path = _find_split(Path(root), (split,) if split else TRAIN_NAMES if train else VAL_NAMES)
    try:
        source = create_dataset('', root=str(path), search_split=False)
    except Exception as e:  # timm: RuntimeError or ValueError for an empty folder or tar, tarfile.ReadError for another
        raise UsageError(
            f'no images in {path}: {str(e).splitlines()[0] if str(e) else type(e).__name__}.\n'
            f'Expected a folder per class with images ({", ".join(sorted(get_img_extensions()))}).') from e
    _check_class_folders(path, source)
    mapping = getattr(source.reader, 'class_to_idx', None) or source.reader.class_name_to_idx
    found = sorted(mapping, key=mapping.get)
    if class_names is not None and found != class_names:
        unknown = [c for c in found if c not in class_names]
        if unknown:
            raise UsageError(
                f'{path} has a class {unknown[0]!r} that is not among the {len(class_names)} known ones.\n'
                f'Evaluation and training data need the same class folders.')
        source = create_dataset(
            '', root=str(path), search_split=False, class_map={c: i for i, c in enumerate(class_names)})
        found = class_names
    return LabelledImages(source, found, mode)


def split_path(root: Union[str, Path], name: str) -> Optional[Path]:
    """The folder or tar of a split, or None."""
    return next((p for p in (Path(root) / name, Path(root) / f'{name}.tar') if p.exists()), None)


def _find_split(root: Path, names: Tuple[str, ...]) -> Path:
    if not root.exists():
        raise UsageError(f'no such directory: {root}.\nGive --data-dir a directory with the images.')
    found = next((path for path in (split_path(root, name) for name in names) if path is not None), None)
    if found is not None:
        return found
    raise UsageError(
        f'{root} has no {names[0]} split.\nExpected a folder or tar of one of the names: {", ".join(names)}.')


def _check_class_folders(path: Path, source: Any) -> None:
    # timm numbers the classes it finds images of: an empty class folder would shift every label behind it
    if path.is_dir():
        filled = {Path(name).parts[0] for name in source.reader.filenames()}
        folders = [d.name for d in path.iterdir() if d.is_dir() and not d.name.startswith('.')]
        empty = sorted(set(folders) - filled)
        if empty:
            raise UsageError(f'the class folder {path / empty[0]} has no images.\nAdd some, or remove the folder.')


def _open_torch(name: str, root: str, train: bool, download: bool) -> Any:
    if not download and not Path(root).exists():
        raise UsageError(
            f'no such directory: {root}.\nGive --data-dir the place of {name}, or add --dataset-download.')
    try:
        return create_dataset(name, root=root, split='train' if train else 'val', download=download)
    except AssertionError as e:
        raise UsageError(
            f'unknown --dataset {name!r}.\nExpected torch/cifar10, torch/cifar100, torch/mnist, ...') from e
    except Exception as e:
        first = str(e).splitlines()[0] if str(e) else type(e).__name__
        hint = 'Check the network and try again.' if download else 'Add --dataset-download to fetch it.'
        raise IEBNZooError(f'cannot open {name} in {root}: {first}\n{hint}') from e
