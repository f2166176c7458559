"""The batches of the batch-noise measure: probe images among changing other images."""
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import torch

from iebn_zoo.data.images import ImageSubset, LabelledImages
from iebn_zoo.data.loader import make_loader
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.util.errors import UsageError

_SHARE = 8  # at most one image in eight is a probe, so that nearly all other images of a batch are new


class ProbeBatches:
    """Batches in which each of N probe images appears ``rounds`` times, with other companions each time.

    In each round the probes are dealt out at random, one per eight places. The rest of a batch are training images,
    drawn anew for each batch from those that are no probes. The seed fixes everything: every epoch, and every network
    that is trained with this seed and batch size, gets the same batches. They have no augmentation and no images of a
    dataset attack.

    Args:
        images: The training images.
        probes: N.
        rounds: R, at least 2.
        args: ``seed``, ``batch_size`` (that of a training step, in one process) and what else ``make_loader`` reads.
        data_config: Input size and preprocessing.
        device: Of the batches.

    Raises:
        UsageError: Fewer than two probes, or too few images for them and a batch.
    """

    def __init__(
            self,
            images: LabelledImages,
            probes: int,
            rounds: int,
            args: TrainSettings,
            data_config: Dict[str, Any],
            device: torch.device,
    ) -> None:
        most = len(images) - args.batch_size
        if not 2 <= probes <= most:
            raise UsageError(
                f'--batch-noise is {probes}, expected 2 to {most}: a batch of {args.batch_size} companions must remain '
                f'of {len(images)} training images.')
        self.probes = probes
        self._args, self._data_config, self._device = args, data_config, device
        rng = np.random.default_rng((args.seed, probes))
        order = rng.permutation(len(images))
        chosen, others = order[:probes], order[probes:]
        per_batch = max(1, args.batch_size // _SHARE)
        self.ids: List[torch.Tensor] = []
        positions: List[int] = []
        for _ in range(rounds):
            dealt = rng.permutation(probes)
            for first in range(0, probes, per_batch):
                ids = dealt[first:first + per_batch]
                companions = rng.choice(others, args.batch_size - len(ids), replace=False)
                self.ids.append(torch.from_numpy(ids).to(device))
                positions += [*chosen[ids].tolist(), *companions.tolist()]
        self._images = ImageSubset(images, positions)

    def __iter__(self) -> Iterator[Tuple[torch.Tensor, torch.Tensor]]:
        """Images (B, C, H, W), and the numbers (n,) of the probes, which are the first n images."""
        loader = make_loader(self._images, self._args, self._data_config, self._device, train=False)
        for (images, _), ids in zip(loader, self.ids, strict=True):
            yield images, ids
