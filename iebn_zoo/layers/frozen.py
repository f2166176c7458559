"""What the child of an IEBN layer keeps while timm's freeze_batch_norm_2d has put a FrozenBatchNorm2d in its place."""
from typing import Dict, Optional

from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from iebn_zoo._compat import BatchNormBase, buffers_of
from iebn_zoo.layers.statistics import own_weight_and_bias


def hand_over(old: Optional[nn.Module], new: Optional[nn.Module]) -> None:
    """Give ``new`` what timm's freeze or unfreeze drops when it puts it in the place of ``old``.

    It drops momentum and batch count, for which FrozenBatchNorm2d has no place. For a norm without weight and bias it
    makes some up, on the CPU and of float32. They get the device and the dtype of the statistics, and stay out of the
    state dict, so that a frozen network loads what a network that is not frozen has saved, and the reverse.

    Args:
        old: The child until now.
        new: The child from now on; changed only where one of the two is a FrozenBatchNorm2d.
    """
    if isinstance(old, BatchNormBase) and isinstance(new, FrozenBatchNorm2d):
        vars(new).update(momentum=old.momentum, num_batches_tracked=old.num_batches_tracked)
        for name, own in zip(('weight', 'bias'), own_weight_and_bias(old), strict=True):
            value = getattr(new, name).to(buffers_of(new)['running_mean'])
            new.register_buffer(name, value, persistent=own is not None)
    elif isinstance(old, FrozenBatchNorm2d) and isinstance(new, BatchNormBase) and new.running_mean is not None:
        kept = vars(old)
        if 'num_batches_tracked' in kept:
            vars(new).update(momentum=kept['momentum'])
            new.register_buffer('num_batches_tracked', kept['num_batches_tracked'].to(new.running_mean.device))


def drop_made_up(state_dict: Dict[str, Tensor], prefix: str, child: Optional[nn.Module]) -> None:
    """Drop a weight of 1 and a bias of 0 that ``child`` does not hold: timm's freeze made them up.

    Earlier versions saved them, and timm's own unfreeze makes parameters of them.

    Args:
        state_dict: As a network is to load it; changed in place.
        prefix: Of the keys of the IEBN layer.
        child: Its child ``bn``.
    """
    for name, value in (('weight', 1), ('bias', 0)):
        tensor = state_dict.get(f'{prefix}bn.{name}')
        if not isinstance(tensor, Tensor) or tensor.is_meta or (child is not None and name in child.state_dict()):
            continue
        if bool((tensor == value).all()):
            del state_dict[f'{prefix}bn.{name}']
