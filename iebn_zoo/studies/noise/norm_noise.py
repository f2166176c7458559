"""The constant noise attack: x^ becomes Na·x^ + Nb in every batch normalization of a network.

Liang et al., arXiv 1908.04008, disturb training by a constant noise behind the normalization. Their values are not
known to us; every (Na, Nb) in this repository is a setting of ours.

A layer under attack keeps its parameters, buffers and their names: its class is replaced by one of those below, which
deepcopy, pickle, EMA and DDP treat like any other. Only attacked networks run this code.

How it is computed. The attack is an affine map of x^, so no tensor Na·x^ + Nb is made:

    BN      y = (Na·weight)·x^ + (bias + Nb·weight)           the same operator with another weight and bias: free
    IEBN    y = (Na·weight)·g·x^ + bias + Nb·weight·g         the operator, and a constant per instance and channel

The last term goes into the fused operator as (part of) the residual that it adds before its ReLU: exact, differentiable
by autograd, on each backend. It costs passes for that residual and for the second path into the gate, if Nb is not 0.
A train step of iebn_resnet20_cifar (batch 64, one CPU thread, medians of 9) took 1.12 of the step without attack, and
0.94 of it with Nb = 0; by the composed formula it took 1.20, and a step of bn_resnet20_cifar under attack 1.08. A
shift of its own in the operator would save the rest, but each backend would need one more argument. Where the layer
must call its child (SyncBatchNorm, ...), the composed formula computes the attack.
"""
import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterator, List, Optional, Type

import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from iebn_zoo.layers import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.ops import ie_batch_norm
from iebn_zoo.ops.reference import gate, instance_mean, scale_and_shift
from iebn_zoo.util.errors import UsageError


@dataclass(frozen=True)
class NormNoise:
    """x^ -> na * x^ + nb.

    Attributes:
        na: Factor.
        nb: Summand.
        in_eval: Attack also where the layer normalizes by its running statistics.
    """

    na: float
    nb: float
    in_eval: bool = False

    def attacks(self, norm: nn.Module) -> bool:
        """Tell whether ``norm``, the module that owns the statistics, is attacked in its present mode."""
        # FrozenBatchNorm2d has a flag ``training``, but ignores it
        return self.in_eval or norm.training and isinstance(norm, _NormBase)

    def factor(self, weight: Optional[Tensor], like: Tensor) -> Tensor:
        """Return Na * weight, (C,)."""
        return self.na * weight if weight is not None else like.new_full(like.shape, self.na)


class _NoisyNorm(nn.BatchNorm2d):
    # stands before a layer that is its own BatchNorm
    norm_noise: NormNoise

    def _attacked(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        momentum = 0.0
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:  # as nn.BatchNorm2d
            self.num_batches_tracked.add_(1)
            momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        noise, weight, bias = self.norm_noise, self.weight, self.bias
        if weight is None:
            like = x.new_empty(self.num_features, dtype=None if self.running_mean is None else self.running_mean.dtype)
            weight, bias = like.new_full(like.shape, noise.na), like.new_full(like.shape, noise.nb)
        else:
            bias = bias + noise.nb * weight if bias is not None else noise.nb * weight
            weight = noise.na * weight
        tracked = not self.training or self.track_running_stats
        return F.batch_norm(
            x, self.running_mean if tracked else None, self.running_var if tracked else None, weight, bias,
            self.training or self.running_mean is None, momentum, self.eps)


class NoisyBatchNorm2d(_NoisyNorm):
    """y = weight * (Na * (x - mu) / sqrt(var + eps) + Nb) + bias

    What ``add_norm_noise`` makes of ``nn.BatchNorm2d``; the running statistics are those of x.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self._attacked(x) if self.norm_noise.attacks(self) else super().forward(x)


class NoisyBatchNormAct2d(_NoisyNorm, BatchNormAct2d):
    """y = act(weight * (Na * (x - mu) / sqrt(var + eps) + Nb) + bias)

    What ``add_norm_noise`` makes of timm's ``BatchNormAct2d``.
    """

    act: nn.Module
    drop: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(self._attacked(x))) if self.norm_noise.attacks(self) else super().forward(x)


class _NoisyGate(IEBatchNorm2d):
    # stands before an IEBN layer and attacks both ways in which it computes
    norm_noise: NormNoise
    weight: Optional[Tensor]
    bias: Optional[Tensor]

    def _forward_operator(self, x: Tensor, relu: bool, residual: Optional[Tensor] = None, **hints: Any) -> Tensor:
        noise, bn = self.norm_noise, self.bn
        if not noise.attacks(bn):
            return super()._forward_operator(x, relu, residual, **hints)
        if noise.nb:
            g = gate(instance_mean(x), self.gate_weight, self.gate_bias)
            shift = (noise.nb * g if self.weight is None else noise.nb * g * self.weight).to(x.dtype)[:, :, None, None]
            residual = shift.expand_as(x) if residual is None else residual + shift
        return ie_batch_norm(
            x, bn.running_mean, bn.running_var, noise.factor(self.weight, self.gate_weight), self.bias,
            self.gate_weight, self.gate_bias, eps=bn.eps, relu=relu, residual=residual, **hints,
            **self._batch_options())

    def _forward_composed(self, x: Tensor) -> Tensor:
        noise = self.norm_noise
        if not noise.attacks(self.bn):
            return super()._forward_composed(x)
        g = gate(instance_mean(x), self.gate_weight, self.gate_bias)
        return scale_and_shift(self.bn(x), noise.na * g, noise.nb * g, self.weight, self.bias).to(x.dtype)


class NoisyIEBatchNorm2d(_NoisyGate, IEBatchNorm2d):
    """y = weight * g * (Na * (x - mu) / sqrt(var + eps) + Nb) + bias, g = sigmoid(gate_weight * mean_hw(x) + gate_bias)

    What ``add_norm_noise`` makes of ``IEBatchNorm2d``. The gate reads the raw x.
    """


class NoisyIEBatchNormAct2d(_NoisyGate, IEBatchNormAct2d):
    """y = act(weight * g * (Na * (x - mu) / sqrt(var + eps) + Nb) + bias [+ residual])

    What ``add_norm_noise`` makes of ``IEBatchNormAct2d``, with g as there.
    """


_NOISY: Dict[Type[nn.Module], Type[nn.Module]] = {
    nn.BatchNorm2d: NoisyBatchNorm2d,
    BatchNormAct2d: NoisyBatchNormAct2d,
    IEBatchNorm2d: NoisyIEBatchNorm2d,
    IEBatchNormAct2d: NoisyIEBatchNormAct2d,
}


@contextmanager
def attack_of_evaluation_switched(model: nn.Module) -> Iterator[None]:
    """Switch the attack in evaluation for a while: on where it was off, off where it was on."""
    attacked = [m for m in model.modules() if 'norm_noise' in vars(m)]
    before: List[NormNoise] = [vars(m)['norm_noise'] for m in attacked]
    for norm, noise in zip(attacked, before, strict=True):
        vars(norm)['norm_noise'] = replace(noise, in_eval=not noise.in_eval)
    try:
        yield
    finally:
        for norm, noise in zip(attacked, before, strict=True):
            vars(norm)['norm_noise'] = noise


def add_norm_noise(model: nn.Module, na: float, nb: float, in_eval: bool = False) -> List[str]:
    """Attack every batch normalization of ``model`` by x^ -> na * x^ + nb.

    BN, SE and IEBN networks are attacked alike, shortcuts included. Call this before torch.compile and DDP, and after a
    conversion to SyncBatchNorm, which would drop the attack of plain BN layers.

    Args:
        model: Changed in place; parameters, buffers and their names stay.
        na: Factor; 1 changes nothing.
        nb: Summand; 0 changes nothing.
        in_eval: Attack evaluation too, and not training only.

    Returns:
        Names of the attacked layers, as in ``named_modules()``.

    Raises:
        UsageError: A value is not finite, the model has no batch normalization, or one of a kind that is not known
            here (SyncBatchNorm, a subclass, a layer that is under attack already). ``model`` is then unchanged.
    """
    if not (math.isfinite(na) and math.isfinite(nb)):
        raise UsageError(f'the noise is Na {na}, Nb {nb}.\nExpected two finite numbers, such as 0.8 0.8.')
    owned = {id(m.bn) for m in model.modules() if isinstance(m, IEBatchNorm2d)}
    norms: Dict[str, nn.Module] = {
        name: m for name, m in model.named_modules()
        if isinstance(m, (IEBatchNorm2d, _NormBase)) and id(m) not in owned}
    if not norms:
        raise UsageError(f'{type(model).__name__} has no batch normalization to attack.\nUse a BN, SE or IEBN network.')
    for name, norm in norms.items():
        if type(norm) not in _NOISY:
            raise UsageError(
                f'the norm {name!r} is a {type(norm).__name__}, which cannot be attacked.\n'
                f'Expected one of {", ".join(cls.__name__ for cls in _NOISY)}; attack a fresh model.')
    for norm in norms.values():
        norm.__class__ = _NOISY[type(norm)]
        vars(norm)['norm_noise'] = NormNoise(float(na), float(nb), in_eval)
    return list(norms)
