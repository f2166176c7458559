"""Training images that are held out: settings are chosen by them, and the test images stay unseen."""
from typing import List, Tuple

import numpy as np

from iebn_zoo.data.images import ImageSubset, LabelledImages
from iebn_zoo.util.errors import UsageError


def held_out_split(images: LabelledImages, fraction: float, seed: int) -> Tuple[ImageSubset, ImageSubset]:
    """Split the images of each class. The same seed gives the same split, on every machine and in every process.

    The replication of IEBN holds a tenth out in this way (LayerAct, AAAI-25: scikit-learn's StratifiedShuffleSplit by
    the seed of the run).

    Args:
        images: The training images.
        fraction: The share of each class to hold out, above 0 and below 1. It is rounded to whole images, and at
            least one image stays.
        seed: The seed of the split.

    Returns:
        (images to train on, held-out images), each in the order of ``images``.

    Raises:
        UsageError: ``fraction`` is out of range, or so small that no image would be held out.
    """
    if not 0 < fraction < 1:
        raise UsageError(f'the share of images to hold out is {fraction}, expected one above 0 and below 1, as 0.1.')
    targets = np.asarray(images.targets())
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

