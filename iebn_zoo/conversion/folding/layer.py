"""One IEBN layer as a BatchNorm layer: exact where its gate does not depend on the instance."""
from typing import Callable, Optional

import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.layers.statistics import own_weight_and_bias
from iebn_zoo.util.errors import UsageError

_CHILDREN = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)  # all normalize alike in eval mode


def to_batch_norm(
        layer: IEBatchNorm2d,
        gate: Tensor,
        norm_class: Callable[..., nn.Module] = nn.BatchNorm2d,
) -> nn.BatchNorm2d:
    """Make the BatchNorm2d that computes, in eval mode, what ``layer`` computes with ``gate`` for every instance.

    y = (weight * gate) * (x - mu) / sqrt(var + eps) + bias: the gate goes into the weight; bias and statistics stay as
    they are. The product is computed in float64 and rounded once. The caller deals with an activation of ``layer``.

    Args:
        layer: Its statistics' child may be BatchNorm2d, SyncBatchNorm or FrozenBatchNorm2d (torchvision's, which
            timm's freeze_batch_norm_2d puts there), also an affine one.
        gate: (C,), any floating dtype and device.
        norm_class: What makes the BatchNorm2d, or one of a subclass, from nn.BatchNorm2d's arguments.

    Returns:
        A layer with tensors of its own, of the dtype and on the device of the parameters of ``layer``.

    Raises:
        UsageError: The child is of another kind, or ``gate`` is not (C,).
    """
    child = layer.bn
    if not isinstance(child, _CHILDREN):
        raise UsageError(
            f"cannot turn the layer's child {type(child).__name__} into a BatchNorm2d.\n"
            f"Expected {', '.join(c.__name__ for c in _CHILDREN)}: put a BatchNorm2d(affine=False) in its place.")
    if gate.shape != (layer.num_features,):
        raise UsageError(f'expected one gate for each of {layer.num_features} channels, got {tuple(gate.shape)}.')
    like = layer.gate_bias
    norm = norm_class(
        layer.num_features, eps=child.eps, momentum=getattr(child, 'momentum', 0.1),
        track_running_stats=child.running_mean is not None, device=like.device, dtype=like.dtype)
    assert isinstance(norm, nn.BatchNorm2d)
    scale = _wide(gate) * _wide(layer.weight, 1.0)
    with torch.no_grad():
        # a child that a tool has made affine acts before the gate
        weight, bias = own_weight_and_bias(child)
        norm.weight.copy_(scale * _wide(weight, 1.0))
        norm.bias.copy_(scale * _wide(bias, 0.0) + _wide(layer.bias, 0.0))
        for name in ('running_mean', 'running_var', 'num_batches_tracked'):
            statistic = getattr(child, name, None)
            if statistic is not None:
                getattr(norm, name).copy_(statistic)
    for name in ('weight', 'bias'):
        parameter = getattr(layer, name)
        getattr(norm, name).requires_grad_(parameter is None or parameter.requires_grad)
    return norm.train(child.training)


def _wide(tensor: Optional[Tensor], default: float = 0.0) -> Tensor:
    if tensor is None:
        return torch.tensor(default, dtype=torch.float64)
    return tensor.detach().cpu().double()
