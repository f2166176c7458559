"""One IEBN layer as a BatchNorm layer: exact where its gate does not depend on the instance."""
from typing import Callable, Optional

import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from iebn_zoo._compat import parameters_of
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

    y = (weight * gate) * (x - mu) / sqrt(var + eps) + bias: the gate goes into the weight. Bias and statistics stay the
    same tensors, so that what shares them still does; where the parameters of ``layer`` have several dtypes or devices,
    those that differ are copied. The product is computed in float64 and rounded once. The caller deals with an
    activation of ``layer``.

    Args:
        layer: Its statistics' child may be BatchNorm2d, SyncBatchNorm or FrozenBatchNorm2d (torchvision's, which
            timm's freeze_batch_norm_2d puts there), also an affine one.
        gate: (C,), any floating dtype and device.
        norm_class: What makes the BatchNorm2d, or one of a subclass, from nn.BatchNorm2d's arguments.

    Returns:
        A layer with a weight of its own, whose tensors have the dtype and the device of ``gate_bias`` of ``layer``. Its
        weight is frozen where that of ``layer`` is (the gate, where there is no weight), and its bias where that of
        ``layer`` is or where there is none. Where ``layer`` has a weight and no bias, it was made by
        ``convert_bn_to_iebn`` of a norm without bias, and the result has no bias. Where that weight is frozen as well
        and weight * gate is 1, the norm had affine=False, and the result has it too.

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
    scale = _wide(gate) * _wide(layer.weight, 1.0)
    # a child that a tool has made affine acts before the gate
    weight, bias = own_weight_and_bias(child)
    weight_alone = layer.weight is not None and layer.bias is None and weight is bias is None
    norm = norm_class(
        layer.num_features, eps=child.eps, momentum=getattr(child, 'momentum', 0.1),
        affine=not (weight_alone and _is_fixed_at_1(layer.weight, scale)),
        track_running_stats=child.running_mean is not None, device=like.device, dtype=like.dtype)
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        if norm.affine:
            norm.weight.copy_(scale * _wide(weight, 1.0))
            norm.bias.copy_(scale * _wide(bias, 0.0) + _wide(layer.bias, 0.0))
        for name in ('running_mean', 'running_var', 'num_batches_tracked'):
            statistic = getattr(child, name, None)
            if statistic is not None and norm.track_running_stats:
                norm.register_buffer(name, _of_kind(statistic, getattr(norm, name)))
    if norm.affine:
        learned = layer.gate_bias if layer.weight is None else layer.weight
        norm.weight.requires_grad_(learned.requires_grad)
        norm.bias.requires_grad_(layer.bias is not None and layer.bias.requires_grad)  # else 0, as before
    if weight_alone or keeps_bias(layer):
        norm.register_parameter('bias', None if weight_alone else parameters_of(layer)['bias'])
    return norm.train(child.training)


def keeps_bias(layer: IEBatchNorm2d) -> bool:
    """Whether the bias of ``layer`` can be that of the BatchNorm2d, as it is."""
    bias = parameters_of(layer).get('bias')
    return bias is not None and own_weight_and_bias(layer.bn)[1] is None and _of_kind(bias, layer.gate_bias) is bias


def _is_fixed_at_1(weight: Optional[Tensor], scale: Tensor) -> bool:
    if weight is None or weight.requires_grad:
        return False
    return bool((scale - 1).abs().max() <= torch.finfo(weight.dtype).eps)  # the weight 1/gate has been rounded


def _of_kind(tensor: Tensor, like: Tensor) -> Tensor:
    tensor = tensor.detach().clone() if tensor.is_inference() else tensor  # what is made may be trained
    return tensor.to(like.device, like.dtype)


def _wide(tensor: Optional[Tensor], default: float = 0.0) -> Tensor:
    if tensor is None:
        return torch.tensor(default, dtype=torch.float64, device='cpu')
    return tensor.detach().cpu().double()
