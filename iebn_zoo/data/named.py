"""Datasets by name: torchvision's and map-style ones of the Hugging Face Hub, through timm."""
import hashlib
from pathlib import Path
from typing import Any, List, Optional, Sequence

import numpy as np
from timm.data.dataset_factory import create_dataset

from iebn_zoo.util.errors import IEBNZooError, UsageError

TRAIN_NAMES = ('train', 'training')
VAL_NAMES = ('val', 'validation', 'valid', 'eval', 'test')
_FOLDER_NAMES = ('torch/image_folder', 'torch/folder')  # timm's names of a plain folder
_ITERABLE = ('hfids', 'tfds', 'wds')
_VALIDATION = ('validation', 'val', 'valid', 'test')
# what torchvision's datasets have besides a split to train and one to evaluate on
_INATURALIST = ('2017', '2018', '2019', '2021_train', '2021_train_mini', '2021_valid')
_MORE_SPLITS = {'places365': ('train-standard', 'train-challenge'), 'inaturalist': _INATURALIST, 'inat': _INATURALIST}


def is_folder(name: Optional[str]) -> bool:
    """Say whether ``--dataset`` means a folder or tar, whose classes are folders; else it names a dataset.

    Args:
        name: The value of the flag; '' or None where it is not given.
    """
    return not name or name.lower() in _FOLDER_NAMES  # timm reads names behind torch/ in any case


def torch_split(name: str, train: bool, split: Optional[str] = None) -> str:
    """Return what timm calls a split of a dataset of torchvision.

    torchvision has a split to train on and one to evaluate on, called test or val: here each usual name of the latter
    means it.

    Args:
        name: ``torch/NAME``.
        train: Without ``split``: the split to train on, else the one to evaluate on.
        split: The name that the user gives it, or None.

    Raises:
        UsageError: The dataset has no such split.
    """
    if not split:
        return 'train' if train else 'val'
    if split in TRAIN_NAMES:
        return 'train'
    if split in VAL_NAMES:
        return 'val'
    more = _MORE_SPLITS.get(name.partition('/')[2].lower(), ())
    if split in more:
        return split
    flag = '--train-split' if train else '--val-split'
    raise UsageError(f'{name} has no split {split!r}.\nGive {flag} one of: {", ".join(("train", "test", *more))}.')


class NamedSource:
    """The images of one split of a dataset by its timm name.

    Args:
        name: ``torch/NAME`` or ``hfds/NAME``.
        root: The directory of its files.
        train: Open the training split, else the split to evaluate on.
        split: The name of the split; None for the usual ones.
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
        opened = _open_torch if kind == 'torch' else _open_hub
        self.dataset = opened(name, root, train, split, download)
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
            if found is not None and np.ndim(found) == 1:  # QMNIST has a row per image: the class and where it is from
                return [int(target) for target in found]
        return [int(self.dataset[i][1]) for i in range(len(self.dataset))]  # slow, and possible for every dataset

    def digest(self) -> str:
        """Return the SHA-256 of number and classes of the images, in hexadecimal; pixels are not read."""
        text = ' '.join(map(str, [self.label, len(self), *self.targets()]))
        return hashlib.sha256(text.encode()).hexdigest()

    def _class_names(self) -> Optional[List[str]]:
        if self.reader is None:
            # ImageNet has a tuple of synonyms per class
            return [name if isinstance(name, str) else ', '.join(name)
                    for name in getattr(self.dataset, 'classes', [])] or None
        mapping = self.reader.class_to_idx
        return sorted(mapping, key=mapping.get) or None


def _open_torch(name: str, root: str, train: bool, split: Optional[str], download: bool) -> Any:
    found = torch_split(name, train, split)
    if not download and not Path(root).exists():
        raise UsageError(
            f'no such directory: {root}.\nGive --data-dir the place of {name}, or add --dataset-download.')
    try:
        return create_dataset(name, root=root, split=found, download=download)
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
