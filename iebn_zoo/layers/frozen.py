"""What the child of an IEBN layer keeps while timm's freeze_batch_norm_2d has put a FrozenBatchNorm2d in its place."""
from typing import Optional

from timm.layers.norm_act import FrozenBatchNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def hand_over(old: Optional[nn.Module], new: Optional[nn.Module]) -> None:
    """Give ``new`` what timm's freeze or unfreeze drops when it puts it in the place of ``old``.

    That is momentum and batch count, which FrozenBatchNorm2d has no place for, and the device and dtype of the weight
    and the bias that it makes up for a norm without.

    Args:
        old: The child until now.
        new: The child from now on; changed only where one of the two is a FrozenBatchNorm2d.
    """
    if isinstance(old, _BatchNorm) and isinstance(new, FrozenBatchNorm2d):
        new.momentum, new.num_batches_tracked = old.momentum, old.num_batches_tracked
        new.weight, new.bias = (t.to(new.running_mean) for t in (new.weight, new.bias))
    elif isinstance(old, FrozenBatchNorm2d) and isinstance(new, _BatchNorm) and hasattr(old, 'num_batches_tracked'):
        new.momentum = old.momentum
        new.num_batches_tracked = old.num_batches_tracked.to(new.running_mean.device)
