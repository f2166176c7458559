"""How well a folded network agrees with the original one."""
from dataclasses import dataclass

from torch import Tensor, nn

from iebn_zoo.errors import IEBNZooError, UsageError
from iebn_zoo.folding.inference import Images, batches, evaluating, predict


@dataclass(frozen=True)
class Agreement:
    """Two networks on the same images.

    Attributes:
        images: Their number.
        same_top1: Images for which both have the same largest logit.
        max_difference: Largest |logit difference|.
        mean_difference: Mean |logit difference| over images and classes.
        max_logit: Largest |logit| of the original: the scale of the differences.
    """

    images: int
    same_top1: int
    max_difference: float
    mean_difference: float
    max_logit: float

    @property
    def top1(self) -> float:
        """Share of the images with the same top-1 class, 0 to 1."""
        return self.same_top1 / self.images


def measure_agreement(original: nn.Module, folded: nn.Module, held_out: Images) -> Agreement:
    """Compare the logits of two networks, in eval mode.

    Args:
        original: (B, C, H, W) -> (B, classes).
        folded: The same.
        held_out: See ``batches``.

    Raises:
        UsageError: The images do not fit, or the output is not a tensor (B, classes).
        IEBNZooError: A logit is not finite.
    """
    images = same = elements = 0
    largest = total = scale = 0.0
    with evaluating(original), evaluating(folded):
        for batch in batches(held_out, 'held_out'):
            expected, logits = _logits(original, batch), _logits(folded, batch)
            difference = (logits - expected).abs()
            images += len(batch)
            elements += difference.numel()
            same += int((logits.argmax(1) == expected.argmax(1)).sum())
            total += float(difference.sum())
            largest, scale = max(largest, float(difference.max())), max(scale, float(expected.abs().max()))
    return Agreement(images, same, largest, total / elements, scale)


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
