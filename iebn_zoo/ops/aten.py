"""IEBN and its gradients in closed form (README.md beside this file) on torch's own CPU kernels.

Sums of x and x² and one affine map forward, one pass of sums and one combination backward: the traffic of BatchNorm.
It saves for backward: x, vectors of at most (B, C), and where a ReLU is fused its output, as the ReLU itself would.
"""
import math
from typing import NamedTuple, Optional, Tuple, TypeVar

import torch
from torch import Tensor

from iebn_zoo.ops import passes
from iebn_zoo.ops.function import Gradients, Needs

_T = TypeVar('_T', Tensor, Optional[Tensor])


class Saved(NamedTuple):
    """What ``forward`` keeps for ``backward`` besides its arguments, in the wide dtype (see ``passes``)."""

    sums: Tensor  # (B, C): of x over H, W
    g: Tensor  # (B, C): gates
    scale: Tensor  # (B, C): g * wr
    mu: Tensor  # (C,)
    r: Tensor  # (C,): 1 / sqrt(var + eps)
    wr: Tensor  # (C,): weight * r
    y: Optional[Tensor]  # output, of the dtype of x, where there is a ReLU


def supports(x: Tensor) -> bool:
    """Whether ``x`` is a CPU tensor of a floating dtype that has elements."""
    return x.device.type == 'cpu' and x.layout == torch.strided and x.numel() > 0 and x.dtype in (
        torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _dense(x: Tensor) -> Tensor:
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


def _as_layout_of(dy: Tensor, x: Tensor) -> Tensor:
    return dy.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last)


def _as(dtype: torch.dtype, t: _T) -> _T:
    return t if t is None or t.dtype == dtype else t.to(dtype)


def forward(
        x: Tensor,
        running_mean: Optional[Tensor],
        running_var: Optional[Tensor],
        weight: Optional[Tensor],
        bias: Optional[Tensor],
        gate_weight: Tensor,
        gate_bias: Tensor,
        training: bool,
        momentum: float,
        eps: float,
        relu: bool,
        residual: Optional[Tensor] = None,
        overwrite: bool = False,
        keep: bool = True,
) -> Tuple[Tensor, Optional[Saved]]:
    """Compute the output, (B, C, H, W), and what ``backward`` needs.

    The arguments are those of ``iebn_zoo.ops.ie_batch_norm``, but for three: ``training`` normalizes by the batch,
    ``overwrite`` writes the output into x, and ``keep=False`` says that nobody will call ``backward``.
    """
    x = _dense(x)
    wide = passes.wide_dtype(x.dtype)
    n = x.size(2) * x.size(3)
    weight, bias = _as(wide, weight), _as(wide, bias)
    gate_weight, gate_bias = _as(wide, gate_weight), _as(wide, gate_bias)
    if not (training or keep) and x.size(0) == 1 and passes.is_small(x) and (residual is None or x.dtype == wide):
        assert running_mean is not None and running_var is not None
        mu, var = _as(wide, running_mean), _as(wide, running_var)
        return _infer_one(x, mu, var, weight, bias, gate_weight, gate_bias, eps, relu, residual), None
    if training:
        sums, mu, var = passes.statistics(x)
        if running_mean is not None:
            assert running_var is not None
            count = x.size(0) * n
            running_mean.mul_(1 - momentum).add_(mu, alpha=momentum)
            running_var.mul_(1 - momentum).add_(var, alpha=momentum * count / (count - 1))
    else:
        assert running_mean is not None and running_var is not None
        sums = passes.instance_sum(x)
        mu, var = running_mean.to(wide, copy=keep), running_var.to(wide)
    r = (var + eps).rsqrt_()
    g = torch.addcmul(gate_bias, sums, gate_weight, value=1 / n).sigmoid_()
    wr = r if weight is None else r * weight
    scale = g * wr
    shift = scale * -mu if bias is None else torch.addcmul(bias, scale, mu, value=-1)
    if residual is not None:
        residual = _as_layout_of(residual, x)
    # every NaN in y comes from a value that makes one of these NaN or infinite, by way of mu in training; for a small
    # tensor, finding out costs more than it saves
    finite = relu and not passes.is_small(x) and math.isfinite((shift if training else sums + shift).sum())
    y = passes.affine(x, scale, shift, x if overwrite else torch.empty_like(x), relu, residual, finite)
    return y, Saved(sums, g, scale, mu, r, wr, y if relu else None)


def _infer_one(
        x: Tensor, mean: Tensor, var: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], gate_weight: Tensor,
        gate_bias: Tensor, eps: float, relu: bool, residual: Optional[Tensor],
) -> Tensor:
    """Do what ``forward`` does for one small instance and running statistics, in few calls: a gate is a weight here."""
    g = torch.addcmul(gate_bias, passes.instance_sum(x), gate_weight, value=1 / (x.size(2) * x.size(3))).sigmoid_()
    y = passes.affine_of_one(x, mean, var, (g if weight is None else g.mul_(weight)).view(-1), bias, eps)
    if residual is not None:
        y.add_(residual)
    return y.relu_() if relu else y


def statistics(saved: Saved, eps: float) -> Tuple[Tensor, Tensor]:
    """Return mu and var, (C,), by which ``forward`` normalized."""
    return saved.mu, saved.r.square().reciprocal_().sub_(eps)


def backward(
        dy: Tensor,
        x: Tensor,
        saved: Saved,
        weight: Optional[Tensor],
        bias: Optional[Tensor],
        gate_weight: Tensor,
        training: bool,
        eps: float,
        relu: bool,
        needs: Needs,
) -> Gradients:
    """Compute the gradients that ``needs`` names. The arguments are those of ``forward``, and what it saved."""
    sums, g, scale, mu, r, wr, y = saved
    x = _dense(x)
    dy = _as_layout_of(dy, x)
    gate_weight = _as(r.dtype, gate_weight)
    if relu:
        assert y is not None
        dx = torch.empty_like(x)
        if needs.residual:
            dy, scratch = passes.relu_backward(dy, y, torch.empty_like(x)), dx
        else:  # where dx will be written: a fresh tensor would cost more than the pass
            dy, scratch = passes.relu_backward(dy, y, dx), None
    else:
        dx = scratch = torch.empty_like(x) if needs.x else None
    n = x.size(2) * x.size(3)
    a, d, rounds = passes.gradient_sums(dy, x, mu, r, scratch)
    gd = g * d
    da = torch.addcmul(gd, gd, g, value=-1)  # gradient of the sigmoid's argument but for the factor weight·r
    d_weight = gd.sum(0).mul_(r)
    d_bias = a.sum(0) if needs.bias else None
    d_gate_weight = (da * sums).sum(0).mul_(wr).div_(n) if needs.gate_weight else None
    d_gate_bias = da.sum(0).mul_(wr) if needs.gate_bias else None
    if needs.x and dx is not None:
        if training:
            minus_count = -x.size(0) * n
            k = (wr * r).mul_(d_weight).div_(minus_count)
            if rounds:
                k = k.to(x.dtype).to(r.dtype)  # so that k·mu below is that of k·x
            constant = (g * a).sum(0).mul_(wr).div_(minus_count).addcmul_(k, mu, value=-1)
            c = torch.addcmul(constant, da, gate_weight * wr, value=1 / n)
        else:
            k, c = None, da.mul_(gate_weight * wr).div_(n)
        dx = passes.combine(dy, x, scale, k, c, dx, rounds)
    return Gradients(
        dx if needs.x else None, d_weight if needs.weight else None, d_bias, d_gate_weight, d_gate_bias,
        dy if needs.residual else None)
