"""The dataset attack: each training batch carries images of another dataset, which disturb its statistics.

Liang et al., arXiv 1908.04008, mix a second dataset of another distribution into the batches. How many images, and of
which dataset, the paper does not say. We read it so:

- K images of the second dataset are appended to each batch of B. They pass through the whole network, so that every
  batch statistic, and with it every running statistic, is taken over B + K images.
- Their logits are dropped, so they count neither in the loss nor in the accuracy. Their only gradient comes from the
  batch statistics.
- They are prepared exactly as the training images are (size, augmentation, mean and std of the first dataset), except
  that nothing is erased at random. Mixup and cutmix are applied to the first dataset before the second joins.
- Each of several processes appends K of its own. Evaluation sees none.
"""
import re
from itertools import count
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import torch
from timm.data.loader import PrefetchLoader, fast_collate
from torch.utils.data import DataLoader

from iebn_zoo.data.images import LabelledImages, open_images
from iebn_zoo.data.loader import SeededImages
from iebn_zoo.util.errors import IEBNZooError, UsageError


class StepSampler:
    """Endless keys of the K images of each step, from a given step on.

    The K images of a step differ from each other. They depend on (seed, epoch, step, rank) only.

    Args:
        length: Images of the dataset.
        number: K.
        seed: Of the run.
        rank: Of the process.
    """

    def __init__(self, length: int, number: int, seed: int, rank: int = 0) -> None:
        self.length, self.number = length, number
        self.entropy = (seed, rank)
        self.start: Tuple[int, int] = (0, 0)  # epoch, step

    def keys(self, epoch: int, step: int) -> List[int]:
        """Draw (epoch, index) of the images of one step, packed as SeededImages unpacks them."""
        seed, rank = self.entropy
        drawn = np.random.default_rng((seed, epoch, step, rank)).choice(self.length, self.number, replace=False)
        return (epoch * self.length + drawn).tolist()

    def __iter__(self) -> Iterator[List[int]]:
        epoch, first = self.start
        return (self.keys(epoch, step) for step in count(first))


class CompanionImages:
    """Batches of K prepared images for each training step.

    Args:
        images: The second dataset.
        number: K.
        train_loader: Of the first dataset: its transform, seed and loader settings are used.
        data_config: ``mean``, ``std`` and ``input_size`` of the first dataset.
        rank: Of the process.

    Raises:
        UsageError: There are fewer than K images.
    """

    def __init__(
            self,
            images: LabelledImages,
            number: int,
            train_loader: PrefetchLoader,
            data_config: Dict[str, Any],
            rank: int = 0,
    ) -> None:
        if not 1 <= number <= len(images):
            raise UsageError(
                f'--mix-count is {number}, expected 1 to {len(images)}: --mix-dataset has {len(images)} images.')
        like = train_loader.loader
        first = like.dataset
        assert isinstance(first, SeededImages)
        seed = first.seed
        self.sampler = StepSampler(len(images), number, seed, rank)
        loader = DataLoader(
            SeededImages(images, first.transform, seed, first.substitute), batch_sampler=self.sampler,
            num_workers=like.num_workers, collate_fn=fast_collate, pin_memory=like.pin_memory,
            worker_init_fn=like.worker_init_fn, persistent_workers=like.num_workers > 0,
            generator=torch.Generator().manual_seed(seed))
        self.loader = PrefetchLoader(
            loader, mean=data_config['mean'], std=data_config['std'], channels=data_config['input_size'][0],
            device=train_loader.device)
        self._next: Tuple[int, int] = (-1, -1)
        self._batches: Iterator[Tuple[torch.Tensor, torch.Tensor]] = iter(())

    def at(self, epoch: int, step: int) -> torch.Tensor:
        """Return the images (K, C, H, W) of a step, normalized, on the device of the training images."""
        if (epoch, step) != self._next:
            self.sampler.start = (epoch, step)
            self._batches = iter(self.loader)
        self._next = (epoch, step + 1)
        return next(self._batches)[0]


def open_companions(root: str, like: LabelledImages, name: str = '', download: bool = False) -> LabelledImages:
    """Open the training split in ``root`` (as ``--data-dir``), in the colour mode of the first dataset.

    Args:
        root: The directory of the second dataset.
        like: The first dataset.
        name: timm's name of the second; '' for a folder or tar.
        download: Allow a named dataset to download.

    Raises:
        UsageError: ``root`` holds no training split.
        IEBNZooError: The dataset cannot be opened.
    """
    try:
        return open_images(name, root, True, download=download, mode=like.mode)
    except IEBNZooError as e:
        said = re.sub(r'--dataset(?![-\w])', '--mix-dataset-name', str(e).replace('--data-dir', '--mix-dataset'))
        raise type(e)(said.replace('Name one with --train-split.', 'Give another dataset.')) from e
