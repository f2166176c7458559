"""How well a folded network agrees with the original one."""
from dataclasses import dataclass
from typing import Any, Dict, Optional

from torch import Tensor, nn

from iebn_zoo.conversion.folding.inference import Images, evaluating, labelled_batches, predict
from iebn_zoo.util.errors import IEBNZooError, UsageError


@dataclass(frozen=True)
class Agreement:
    """Two networks on the same images.

    Attributes:
        images: Their number.
        same_top1: Images for which both have the same largest logit.
        max_difference: Largest |logit difference|.
        mean_difference: Mean |logit difference| over images and classes.
        max_logit: Largest |logit| of the original: the scale of the differences.
        labelled: Images that came with their class.
        correct_original: Those of them for which the original's largest logit is that class.
        correct_folded: The same of the folded network.
    """

    images: int
    same_top1: int
    max_difference: float
    mean_difference: float
    max_logit: float
    labelled: int = 0
    correct_original: int = 0
    correct_folded: int = 0

    @property
    def top1(self) -> float:
        """Share of the images with the same top-1 class, 0 to 1."""
        return self.same_top1 / self.images

    @property
    def accuracy_original(self) -> Optional[float]:
        """Top-1 accuracy of the original, 0 to 1, or None if no image came with its class."""
        return self.correct_original / self.labelled if self.labelled else None

    @property
    def accuracy_folded(self) -> Optional[float]:
        """Top-1 accuracy of the folded network, 0 to 1, or None."""
        return self.correct_folded / self.labelled if self.labelled else None

    def figures(self) -> Dict[str, Any]:
        """Return all of it by the names that the files of a report use."""
        return dict(
            held_out_images=self.images, same_top1=self.same_top1, top1_agreement=self.top1,
            max_logit_difference=self.max_difference, mean_logit_difference=self.mean_difference,
            max_logit=self.max_logit, labelled_images=self.labelled, correct_original=self.correct_original,
            correct_folded=self.correct_folded, accuracy_original=self.accuracy_original,
            accuracy_folded=self.accuracy_folded)


def measure_agreement(original: nn.Module, folded: nn.Module, held_out: Images) -> Agreement:
    """Compare the logits of two networks, in eval mode.

    Args:
        original: (B, C, H, W) -> (B, classes).
        folded: The same.
        held_out: See ``labelled_batches``; class indices below 0 are of unknown class.

    Raises:
        UsageError: The images do not fit, or the output is not a tensor (B, classes).
        IEBNZooError: A logit is not finite.
    """
    images = same = elements = labelled = correct_original = correct_folded = 0
    largest = total = scale = 0.0
    with evaluating(original), evaluating(folded):
        for batch, targets in labelled_batches(held_out, 'held_out'):
            expected, logits = _logits(original, batch), _logits(folded, batch)
            difference = (logits - expected).abs()
            images += len(batch)
            elements += difference.numel()
            top, top_original = logits.argmax(1), expected.argmax(1)
            same += int((top == top_original).sum())
            if targets is not None:
                labelled += int((targets >= 0).sum())
                correct_original += int((top_original == targets).sum())
                correct_folded += int((top == targets).sum())
            total += float(difference.sum())
            largest, scale = max(largest, float(difference.max())), max(scale, float(expected.abs().max()))
    return Agreement(
        images, same, largest, total / elements, scale, labelled, correct_original, correct_folded)


def _logits(model: nn.Module, batch: Tensor) -> Tensor:
    logits = predict(model, batch)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or not logits.shape[1]:
        shape = f' of shape {tuple(logits.shape)}' if isinstance(logits, Tensor) else ''
        raise UsageError(
            f'{type(model).__name__} returns a {type(logits).__name__}{shape}, which has no top-1.\n'
            f'Expected logits (B, classes): give a classifier, or no held_out images.')
    logits = logits.detach().cpu().double()
    if not logits.isfinite().all():
        raise IEBNZooError(
            f'{type(model).__name__} returns logits that are not finite on held_out images.\n'
            f'Look for NaN in the images and in the weights of the model.')
    return logits
