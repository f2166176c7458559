"""Runs a network over images in eval mode, and leaves it as it was."""
from contextlib import contextmanager
from typing import Any, Iterable, Iterator, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from iebn_zoo.util.errors import UsageError

Images = Union[Tensor, Iterable[Any]]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode, without gradients. Afterwards every module has the training flag that it had."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


def batches(images: Images, argument: str) -> Iterator[Tensor]:
    """Yield the batches of images, (B, C, H, W) each; see ``labelled_batches``."""
    return (batch for batch, _ in labelled_batches(images, argument))


def labelled_batches(images: Images, argument: str) -> Iterator[Tuple[Tensor, Optional[Tensor]]]:
    """Yield the batches of images that are not empty, (B, C, H, W) each, with their class indices (B,) or None.

    The class indices are the second item of a tuple, if that is an integer tensor (B,).

    Args:
        images: One batch, or an iterable of batches or of tuples that begin with one: a DataLoader.
        argument: Name for messages.

    Raises:
        UsageError: Not of that form, or without any image.
    """
    if isinstance(images, Tensor):
        images = (images,)
    elif not isinstance(images, Iterable):
        raise UsageError(f'{argument} is a {type(images).__name__}.\nExpected a tensor (B, C, H, W) or a DataLoader.')
    empty = True
    for i, item in enumerate(images):
        batch = item[0] if isinstance(item, (tuple, list)) and item else item
        if not isinstance(batch, Tensor) or batch.dim() != 4 or not batch.is_floating_point():
            raise UsageError(
                f'batch {i} of {argument} is {_describe(batch)}.\n'
                f'Expected a floating-point tensor (B, C, H, W), or a tuple that begins with one; a DataLoader makes '
                f'batches of a Dataset.')
        if len(batch):
            empty = False
            yield batch, _targets(item, len(batch))
    if empty:
        raise UsageError(
            f'{argument} holds no image.\nExpected at least one; a generator or an iterator can be read only once.')


def _targets(item: Any, count: int) -> Optional[Tensor]:
    targets = item[1] if isinstance(item, (tuple, list)) and len(item) > 1 else None
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.shape != (count,):
        return None
    return targets.cpu()


def predict(model: nn.Module, batch: Tensor) -> Any:
    """Run ``model(batch)`` on the device and in the dtype of the model's first floating-point parameter.

    Raises:
        UsageError: The model cannot take this batch.
    """
    like = next(p for p in model.parameters() if p.is_floating_point())
    try:
        return model(batch.to(like.device, like.dtype))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as e:
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise UsageError(
            f'{type(model).__name__} fails on images of shape {tuple(batch.shape)}: {reason}\n'
            f'Give images with the channels and of a size that it was built for.') from e


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f'a {str(value.dtype).removeprefix("torch.")} tensor of shape {tuple(value.shape)}'
    return f'a {type(value).__name__}'
