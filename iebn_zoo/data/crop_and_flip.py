"""Random crop and flips of a whole batch at once, on any device, with the bits that torchvision gives image by image.

torchvision draws from torch's CPU generator: two numbers for a crop, one for each kind of flip. That generator is the
Mersenne Twister MT19937, which NumPy has too, seeded in the same way; so all draws of a batch are made in one call.
"""
from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_MANTISSA = 2 ** 24 - 1  # torch.rand takes the lower 24 of 32 random bits


@dataclass(frozen=True)
class CropAndFlip:
    """torchvision's ``RandomCrop(size, padding)``, ``RandomHorizontalFlip`` and ``RandomVerticalFlip``, in this order.

    Attributes:
        size: Height and width of the images and of the crops.
        padding: Black pixels that are added on each side before the crop; 0 for no crop at all.
        hflip: Probability of a horizontal flip.
        vflip: Probability of a vertical flip.
    """

    size: Tuple[int, int]
    padding: int = 0
    hflip: float = 0.0
    vflip: float = 0.0

    def draw(self, count: int, seed: int) -> Tensor:
        """Draw what a loader draws for a batch of ``count`` images after ``torch.manual_seed(seed)``.

        Returns:
            (count, 4), int64: first row and first column of the crop in the padded image, and 1 or 0 for whether it
            is flipped horizontally, vertically.
        """
        if self._is_identity:
            return torch.zeros(count, 4, dtype=torch.int64)
        flips = [p for p in (self.hflip, self.vflip) if p > 0]
        words = self._words(count, 2 * (self.padding > 0) + len(flips), seed)
        drawn = torch.zeros(count, 4, dtype=torch.int64)
        if self.padding:
            drawn[:, :2] = words[:, :2] % (2 * self.padding + 1)
        uniform = (words[:, words.shape[1] - len(flips):] & _MANTISSA).to(torch.float32) * 2.0 ** -24
        for column, p in enumerate(flips):
            drawn[:, 2 + (column if self.hflip > 0 else 1)] = uniform[:, column] < p
        return drawn

    @property
    def _is_identity(self) -> bool:
        return not (self.padding or self.hflip > 0 or self.vflip > 0)

    def _words(self, count: int, each: int, seed: int) -> Tensor:
        # torch takes the lower 32 bits of a seed
        generator = np.random.RandomState(seed % 2 ** 32)
        words = generator.randint(0, 2 ** 32, count * each, dtype=np.uint32)
        return torch.from_numpy(words.astype(np.int64)).view(count, each)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Crop and flip.

        Args:
            images: (B, C, H, W) of height and width ``size``, any dtype.
            drawn: What ``draw`` returned, on the same device.

        Returns:
            (B, C, H, W), contiguous.
        """
        if self._is_identity:
            return images
        padded = F.pad(images, [self.padding] * 4)
        rows = _positions(drawn[:, 0], drawn[:, 3], self.size[0])
        columns = _positions(drawn[:, 1], drawn[:, 2], self.size[1])
        instance = torch.arange(images.size(0), device=images.device)[:, None, None, None]
        channel = torch.arange(images.size(1), device=images.device)[:, None, None]
        return padded[instance, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _positions(first: Tensor, flipped: Tensor, length: int) -> Tensor:
    """Return (B, length): the positions of a crop, in reverse order where it is flipped."""
    forward = torch.arange(length, device=first.device)
    return first[:, None] + torch.where(flipped[:, None] > 0, length - 1 - forward, forward)


def draw_batches(transform: CropAndFlip, sizes: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Draw for several batches, one after the other; returns (sum of sizes, 4)."""
    drawn = [transform.draw(size, seed) for size, seed in zip(sizes, seeds, strict=True)]
    return torch.cat(drawn) if drawn else torch.zeros(0, 4, dtype=torch.int64)
