"""Datasets by name: torchvision's and map-style ones of the Hugging Face Hub, through timm."""
import hashlib
from pathlib import Path
from typing import Any, List, Optional, Sequence

from timm.data.dataset_factory import create_dataset

from iebn_zoo.util.errors import IEBNZooError, UsageError

FOLDER_NAMES = ('torch/image_folder', 'torch/folder')  # timm's names of a plain folder
_ITERABLE = ('hfids', 'tfds', 'wds')
_VALIDATION = ('validation', 'val', 'valid', 'test')


class NamedSource:
    """The images of one split of a dataset by its timm name.

    Args:
        name: ``torch/NAME`` or ``hfds/NAME``.
        root: The directory of its files.
        train: Open the training split, else the split to evaluate on.
        split: The name of the split, for ``hfds/``; None for the usual ones.
        download: Download the files that are missing.

    Attributes:
        class_names: The classes in order, or None where the dataset does not name them.

    Raises:
        UsageError: The name or the split is unknown, or a run on such a dataset cannot be resumed.
        IEBNZooError: It cannot be opened.
    """

    _targets: Optional[List[int]] = None

    def __init__(self, name: str, root: str, train: bool, split: Optional[str] = None, download: bool = False) -> None:
        kind = name.partition('/')[0].lower()
        if kind in _ITERABLE:
            raise UsageError(
                f'--dataset {name} gives its images as a stream, and a run that was stopped cannot find its place '
                f'in one.\n'
                f'Expected torch/NAME, hfds/NAME (the same Hub dataset, by position), or a folder or tar.')
        if kind not in ('torch', 'hfds') or '/' not in name:
            raise UsageError(f'unknown --dataset {name!r}.\nExpected torch/NAME, such as torch/cifar100, hfds/NAME, '
                             f'such as hfds/uoft-cs/cifar100, or none for a folder or tar.')
        self.dataset = _open_torch(name, root, train, download) if kind == 'torch' else _open_hub(
            name, root, train, split, download)
        self.label = name
        self.reader = getattr(self.dataset, 'reader', None)  # of hfds
        self.class_names = self._class_names()

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> Any:
        """Return image number ``index``, as a PIL image or an open file, and its class index."""
        return self.dataset[index] if self.reader is None else self.reader[index]

    def name(self, index: int) -> str:
        """Return a name of image number ``index``, for messages."""
        return f'number {index} of {self.label}'

    def targets(self) -> Sequence[int]:
        """Return the class index of each image; found once, because some datasets read every image for that."""
        if self._targets is None:
            self._targets = self._found_targets()
        return self._targets

    def _found_targets(self) -> List[int]:
        if self.reader is not None:
            return [int(target) for target in self.reader.iter_targets()]
        for attribute in ('targets', 'labels', '_labels'):  # torchvision's names
            found = getattr(self.dataset, attribute, None)
            if found is not None:
                return [int(target) for target in found]
        return [int(self.dataset[i][1]) for i in range(len(self.dataset))]  # slow, and possible for every dataset

    def digest(self) -> str:
        """Return the SHA-256 of number and classes of the images, in hexadecimal; pixels are not read."""
        text = ' '.join(map(str, [self.label, len(self), *self.targets()]))
        return hashlib.sha256(text.encode()).hexdigest()

    def _class_names(self) -> Optional[List[str]]:
        if self.reader is None:
            return list(getattr(self.dataset, 'classes', [])) or None
        mapping = self.reader.class_to_idx
        return sorted(mapping, key=mapping.get) or None


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
        hint = 'Check the network and try again.' if download else 'Add --dataset-download to fetch it.'
        raise IEBNZooError(f'cannot open {name} in {root}: {_first_line(e)}\n{hint}') from e


def _open_hub(name: str, root: str, train: bool, split: Optional[str], download: bool) -> Any:
    try:
        from datasets import config
    except ImportError as e:
        raise UsageError(f'--dataset {name} needs the package datasets.\nRun: pip install datasets') from e
    # the package reads its own switch at import; without --dataset-download nothing may be downloaded
    offline = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = offline or not download
    errors = []
    try:
        for candidate in (split,) if split else ('train',) if train else _VALIDATION:
            try:
                return create_dataset(name, root=root, split=candidate)
            except ValueError as e:  # no such split
                errors.append(e)
            except Exception as e:
                hint = 'Check the name and the network.' if download else 'Add --dataset-download to fetch it.'
                raise IEBNZooError(f'cannot open {name} in {root}: {_first_line(e)}\n{hint}') from e
    finally:
        config.HF_HUB_OFFLINE = offline
    raise UsageError(f'{name} has no split to {"train" if train else "evaluate"} on: {_first_line(errors[0])}\n'
                     f'Name one with {"--train-split" if train else "--val-split"}.') from errors[0]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
