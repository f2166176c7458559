"""IEBatchNorm2d: batch normalization whose scale is regulated by each instance's own channel mean."""
import math
from numbers import Integral, Real
from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from iebn_zoo._compat import (
    buffers_of,
    children_of,
    has_load_hooks,
    is_hooked,
    is_scripting,
    parameters_of,
    register_notrace_module,
)
from iebn_zoo.layers.bn_tensors import refuse_bn_tensors
from iebn_zoo.layers.frozen import drop_made_up, hand_over
from iebn_zoo.layers.start import GATE_BIAS_INIT, PAPER, initial_weight, resolve_start
from iebn_zoo.layers.statistics import adopt, call, is_plain, own_weight_and_bias, owner_of
from iebn_zoo.ops import ie_batch_norm
from iebn_zoo.ops.reference import check_values, gate, instance_mean, scale_and_shift

# single nodes of an FX graph: quantization then leaves their arithmetic in float, and statistics and parameters stay
# what the graph reads, not constants of it
torch.fx.wrap('instance_mean')
torch.fx.wrap('gate')
torch.fx.wrap('scale_and_shift')


@torch.fx.wrap
def check_input(x: Tensor, num_features: int, training: bool) -> None:
    """Raise ValueError unless x is (B, num_features, H, W) of a floating dtype, with H·W above 0 and, in training, at
    least two values per channel."""
    if x.dim() != 4:
        raise ValueError(f'IEBatchNorm2d expects a 4-D input (B, {num_features}, H, W), got {x.dim()}-D.')
    if x.size(1) != num_features:
        raise ValueError(f'IEBatchNorm2d was built for {num_features} channels, got an input with {x.size(1)}.')
    check_values(x)
    if training and x.size(2) * x.size(3) == 1 and x.size(0) == 1:  # the batch last: a graph may not know its size
        raise ValueError(
            'IEBatchNorm2d needs more than 1 value per channel to train, got B = H = W = 1. '
            'Use a larger batch or image, or call eval().')


def check_numbers(num_features: int, eps: float, momentum: Optional[float]) -> None:
    """Raise ValueError unless these are arguments of an IEBatchNorm2d."""
    if not isinstance(num_features, Integral) or num_features < 1:
        raise ValueError(f'num_features is {num_features!r}, expected a whole number of at least 1.')
    if not isinstance(eps, Real) or not 0 <= eps < math.inf:
        raise ValueError(f'eps is {eps!r}, expected a number of at least 0, such as 1e-5.')
    if momentum is not None and not (isinstance(momentum, Real) and 0 <= momentum <= 1):
        raise ValueError(f'momentum is {momentum!r}, expected the share of the batch in the running statistics, 0 to '
                         f'1, or None for their cumulative average.')


@torch.fx.wrap
def fold_statistics(
        g: Tensor, running_mean: Tensor, running_var: Tensor, eps: float,
) -> Tuple[Tensor, Tensor]:
    """Compute scale and shift, (B, C): scale * x + shift = g * (x - running_mean) / sqrt(running_var + eps)."""
    scale = g * torch.rsqrt(running_var.to(g.dtype) + eps)
    return scale, -(scale * running_mean)


@register_notrace_module
class IEBatchNorm2d(nn.Module):
    """y = weight * sigmoid(gate_weight * mean_hw(x) + gate_bias) * (x - mu) / sqrt(var + eps) + bias

    Instance Enhancement Batch Normalization (Liang et al., AAAI 2020, arXiv 1908.04008, section 3). mu, var are the
    batch's in training and the running ones in eval, as in ``nn.BatchNorm2d``; ``bias`` stays outside the gate.

    The statistics belong to the child ``bn``, an ``nn.BatchNorm2d(affine=False)``: tools that replace or freeze
    BatchNorm2d (SyncBatchNorm, SplitBatchNorm, FrozenBatchNorm2d, ``update_bn``, ``distribute_bn``) act on the child
    and cannot drop the gate. The child's ``weight`` and ``bias`` are those of the layer, so that a loop over every
    BatchNorm2d initializes the layer; one that sets weight to 1 does so whatever ``start`` is. Hooks on the child are
    called; hooks on every module (``register_module_forward_hook``) see the layer alone.

    In a new layer gate_weight is 0 and gate_bias is -1, so that every gate is sigmoid(-1) = 0.2689 for every instance.

    Args:
        num_features: Channels C, at least 1.
        eps: Added to the variance, at least 0. With 0, a channel that is constant gives NaN.
        momentum: Share of the batch in the running statistics, 0 to 1; None for their cumulative average.
        affine: Learn ``weight`` and ``bias``. False: they are None and stand for 1 and 0. The gate is learned in both
            cases.
        track_running_stats: Keep running statistics. False: eval normalizes by the batch too.
        device: Of the parameters.
        dtype: Of the parameters.
        start: ``'paper'``: weight starts at 1, as in the paper, and a new layer computes 0.2689 times what BatchNorm
            computes. ``'bn'``: weight starts at 1/sigmoid(-1) = 3.7183, and a new layer computes what BatchNorm
            computes. bias is 0 in both.
        freeze_gate_weight: Do not train gate_weight: it stays at 0 in a new layer, and each gate is sigmoid(gate_bias)
            for every instance. The layer is then BatchNorm with the scale weight * sigmoid(gate_bias): a control that
            tells what gating by instance adds. Setting ``gate_weight.requires_grad`` to True undoes it.

    Shape:
        (B, C, H, W) -> (B, C, H, W), same dtype. The arithmetic is in float32, or in float64 for a float64 input, also
        under autocast.

    Raises:
        ValueError: Input of another rank, channel count or dtype, without a pixel, or with one value per channel in
            training. From the constructor: a number out of its range, an unknown ``start``, or ``start='bn'`` without
            ``affine``, as only a weight can make up for the gate.
    """

    start: str = PAPER  # of layers that were pickled before there was a choice
    weight: Optional[Tensor]
    bias: Optional[Tensor]

    def __init__(
            self,
            num_features: int,
            eps: float = 1e-5,
            momentum: Optional[float] = 0.1,
            affine: bool = True,
            track_running_stats: bool = True,
            device: Any = None,
            dtype: Optional[torch.dtype] = None,
            start: Optional[str] = None,
            freeze_gate_weight: bool = False,
    ) -> None:
        super().__init__()
        check_numbers(num_features, eps, momentum)
        self.start = resolve_start(start, affine)
        dd = {'device': device, 'dtype': dtype}
        self.num_features = num_features
        self.affine = affine
        for name in ('weight', 'bias'):
            self.register_parameter(name, nn.Parameter(torch.empty(num_features, **dd)) if affine else None)
        self.gate_weight = nn.Parameter(torch.empty(num_features, **dd), requires_grad=not freeze_gate_weight)
        self.gate_bias = nn.Parameter(torch.empty(num_features, **dd))
        self.bn = nn.BatchNorm2d(
            num_features, eps, momentum, affine=False, track_running_stats=track_running_stats, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set weight to 1 or 1/sigmoid(-1) by ``start``, bias 0, gate_weight 0, gate_bias -1; statistics 0 and 1."""
        if self.weight is not None:
            nn.init.constant_(self.weight, initial_weight(self.start))
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        nn.init.zeros_(self.gate_weight)
        nn.init.constant_(self.gate_bias, GATE_BIAS_INIT)
        self.bn.reset_running_stats()

    def add_module(self, name: str, module: Optional[nn.Module]) -> None:
        """Add a child, as ``nn.Module.add_module``. timm freezes and unfreezes norms through it; see ``hand_over``."""
        hand_over(children_of(self).get(name), module)
        super().add_module(name, module)
        adopt(self)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == 'bn':
            adopt(self)

    def __setstate__(self, state: Dict[str, Any]) -> None:
        super().__setstate__(state)
        if owner_of(self.bn) is None:  # a shallow copy leaves the child to the layer it shares it with
            adopt(self)

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        hooked = has_load_hooks(self)  # the hooks may convert the tensors first
        if not hooked:
            refuse_bn_tensors(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if hooked:
            refuse_bn_tensors(state_dict, prefix)
        drop_made_up(state_dict, prefix, children_of(self).get('bn'))  # torch gives the child what is left here

    def forward(self, x: Tensor) -> Tensor:
        if is_scripting():
            check_input(x, self.num_features, self._normalizes_by_batch())
            return self._forward_composed(x)
        else:  # spelled out: the TorchScript compiler skips only an explicit else
            if self._is_composed(x):
                return self._forward_composed(x)
            return self._forward_operator(x, relu=False)

    @torch.jit.unused
    def _forward_operator(
            self, x: Tensor, relu: bool, residual: Optional[Tensor] = None, overwrite: bool = False,
    ) -> Tensor:
        # from the dicts: nn.Module finds a tensor or a child in a slow way, and a small layer has ten of them
        bn: Any = children_of(self)['bn']
        buffers, own = buffers_of(bn), parameters_of(self)
        if 'running_mean' in buffers and 'running_var' in buffers:
            mean, var = buffers['running_mean'], buffers['running_var']
        else:
            mean, var = bn.running_mean, bn.running_var
        if 'weight' in own and 'bias' in own and 'gate_weight' in own and 'gate_bias' in own:
            weight, bias, gate_weight, gate_bias = own['weight'], own['bias'], own['gate_weight'], own['gate_bias']
        else:  # pruning, parametrizations and DataParallel keep one of them elsewhere
            weight, bias, gate_weight, gate_bias = self.weight, self.bias, self.gate_weight, self.gate_bias
        assert gate_weight is not None and gate_bias is not None
        if bn.training:
            return ie_batch_norm(
                x, mean, var, weight, bias, gate_weight, gate_bias, eps=bn.eps, relu=relu, residual=residual,
                overwrite=overwrite, **self._batch_options())
        return ie_batch_norm(
            x, mean, var, weight, bias, gate_weight, gate_bias, mean is None, 0.0, bn.eps, relu, residual, overwrite)

    def _normalizes_by_batch(self) -> bool:
        # FrozenBatchNorm2d has a flag ``training`` that it does not look at; TorchScript knows hasattr of a child
        return self.bn.training and hasattr(self.bn, 'track_running_stats')

    def _forward_composed(self, x: Tensor) -> Tensor:
        # plain ops and a call of the child: what TorchScript and FX graphs show, and what replaced children need
        g = gate(instance_mean(x), self.gate_weight, self.gate_bias)
        mean, var = self.bn.running_mean, self.bn.running_var
        if self.bn.training or mean is None or var is None or self._child_must_be_called():
            # FrozenBatchNorm2d promotes a narrow x to the dtype of its statistics
            return scale_and_shift(self._call_child(x), g, torch.zeros_like(g), self.weight, self.bias).to(x.dtype)
        # y = x * scale + shift: torch.jit.optimize_for_inference crashes on a batch_norm without weight
        scale, shift = fold_statistics(g, mean, var, self.bn.eps)
        return scale_and_shift(x, scale, shift, self.weight, self.bias)

    @torch.jit.unused
    def _is_composed(self, x: Tensor) -> bool:
        """Check the input, and tell whether ``_forward_composed`` has to compute the output."""
        bn: Any = children_of(self)['bn']
        check_input(x, self.num_features, bn.training and hasattr(bn, 'track_running_stats'))
        # SyncBatchNorm, SplitBatchNorm and FrozenBatchNorm2d normalize in ways of their own, a child that a tool has
        # made affine has a weight to apply, and hooks wait for a call: all of these must be called, not read
        return not is_plain(bn) or is_hooked(bn) or isinstance(x, Proxy)

    def _call_child(self, x: Tensor) -> Tensor:
        if is_scripting():
            return self.bn(x)
        else:
            return call(self.bn, x)

    def _child_must_be_called(self) -> bool:
        # for its weight, or for its hooks
        if is_scripting():
            if hasattr(self.bn, 'weight'):  # BatchNormStatistics2d keeps the layer's from the compiler
                return self.bn.weight is not None
            else:
                return False
        else:
            return own_weight_and_bias(self.bn)[0] is not None or is_hooked(self.bn)

    @torch.jit.unused
    def _batch_options(self) -> Dict[str, Any]:
        # arguments of ie_batch_norm: nn.BatchNorm2d.forward's bookkeeping, without a launch of its own for the count
        bn: Any = children_of(self)['bn']
        options = {'training': bn.training or bn.running_mean is None, 'momentum': 0.0}
        if bn.training and bn.track_running_stats:
            count = bn.num_batches_tracked
            assert count is not None
            if bn.momentum is None:  # the cumulative average: the operator needs the number
                count.add_(1)
                options['momentum'] = 1.0 / float(count)
            else:
                options.update(momentum=bn.momentum, num_batches_tracked=count)
        return options

    def extra_repr(self) -> str:
        frozen = '' if self.gate_weight.requires_grad else ', freeze_gate_weight=True'
        return f'{self.num_features}, affine={self.affine}, start={self.start!r}{frozen}'
