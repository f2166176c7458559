"""Holding training images out, to choose by them what the test images must not choose."""
from typing import List, Sequence, Tuple

import numpy as np
from PIL import Image

from iebn_zoo.errors import UsageError
from iebn_zoo.training.images import LabelledImages


class ImageSubset(LabelledImages):
    """Some images of ``images``, under positions of their own."""

    def __init__(self, images: LabelledImages, indices: Sequence[int]) -> None:
        super().__init__(images.source, images.class_names, images.mode)
        self.images = images
        self.indices = list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> Tuple[Image.Image, int]:
        """Image number ``index`` of the subset and its class."""
        return self.images.read(self.indices[index])


def held_out_split(images: LabelledImages, fraction: float, seed: int) -> Tuple[ImageSubset, ImageSubset]:
    """Split within each class; the same seed gives the same split, on every machine and in every process.

    The replication of IEBN holds a tenth out in this way (LayerAct, AAAI-25: scikit-learn's StratifiedShuffleSplit by
    the seed of the run).

    Args:
        images: The training images.
        fraction: Share of each class to hold out, above 0 and below 1; rounded to whole images, and at least one
            stays.
        seed: Of the split.

    Returns:
        (images to train on, held-out images), each in the order of ``images``.

    Raises:
        UsageError: ``fraction`` is out of range, or so small that no image would be held out.
    """
    if not 0 < fraction < 1:
        raise UsageError(f'the share of images to hold out is {fraction}, expected one above 0 and below 1, as 0.1.')
    targets = np.asarray(_targets(images))
    rng = np.random.default_rng(seed)
    held: List[int] = []
    for label in np.unique(targets):
        members = np.flatnonzero(targets == label)
        count = min(int(fraction * len(members) + 0.5), len(members) - 1)
        held.extend(rng.permutation(members)[:count].tolist())
    if not held:
        raise UsageError(
            f'a share of {fraction} holds out no image: the largest class has {np.bincount(targets).max()}.\n'
            f'Give a larger share, or evaluate on images of their own.')
    held_set = set(held)
    return ImageSubset(images, [i for i in range(len(images)) if i not in held_set]), ImageSubset(images, sorted(held))


def _targets(images: LabelledImages) -> Sequence[int]:
    reader = getattr(images.source, 'reader', None)
    if reader is not None and not hasattr(reader, 'targets'):
        return [target for _, target in reader.samples]  # a folder's reader keeps them with the paths
    for name in ('targets', 'labels', '_labels'):  # torchvision's names
        found = getattr(reader if reader is not None else images.source, name, None)
        if found is not None:
            return [int(t) for t in found]
    return [images.read(i)[1] for i in range(len(images))]  # slow, but any source has them
