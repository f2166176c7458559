"""IEBN and its gradients in closed form (README.md beside this file) on torch's own CPU kernels.

Sums of x and x² and one affine map forward, one pass of sums and one combination backward: the traffic of BatchNorm.
Saved for backward: x, vectors of at most (B, C), and where a ReLU is fused its output, as the ReLU itself would.
"""
import math
from typing import Optional, Tuple

import torch
from torch import Tensor

from iebn_zoo.ops import passes

Saved = Tuple[Tensor, ...]
Gradients = Tuple[Optional[Tensor], ...]


def supports(x: Tensor) -> bool:
    """A CPU tensor of a floating dtype that has elements."""
    return x.device.type == 'cpu' and x.layout == torch.strided and x.numel() > 0 and x.dtype in (
        torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _dense(x: Tensor) -> Tensor:
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


def _as_layout_of(dy: Tensor, x: Tensor) -> Tensor:
    return dy.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last)


def _as(dtype: torch.dtype, *tensors: Optional[Tensor]) -> Tuple[Optional[Tensor], ...]:
    return tuple(t if t is None or t.dtype == dtype else t.to(dtype) for t in tensors)


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
) -> Tuple[Tensor, Saved]:
    """Output (B, C, H, W) and what ``backward`` needs.

    Args as ``iebn_zoo.ops.ie_batch_norm``, and ``training``: normalize by the batch; ``overwrite``: into x; ``keep``:
    ``backward`` will be called. By running statistics nothing needs to be saved without.
    """
    x = _dense(x)
    wide = passes.wide_dtype(x.dtype)
    n = x.size(2) * x.size(3)
    weight, bias, gate_weight, gate_bias = _as(wide, weight, bias, gate_weight, gate_bias)
    if not (training or keep) and x.size(0) == 1 and passes.is_small(x) and (residual is None or x.dtype == wide):
        mu, var = _as(wide, running_mean, running_var)
        return _infer_one(x, mu, var, weight, bias, gate_weight, gate_bias, eps, relu, residual), ()
    if training:
        sums, mu, var = passes.statistics(x)
        if running_mean is not None:
            count = x.size(0) * n
            running_mean.mul_(1 - momentum).add_(mu, alpha=momentum)
            running_var.mul_(1 - momentum).add_(var, alpha=momentum * count / (count - 1))
    else:
        sums = passes.instance_sum(x)
        mu, var = running_mean.to(wide, copy=keep), running_var.to(wide)
    r = (var + eps).rsqrt_()
    g = torch.addcmul(gate_bias, sums, gate_weight, value=1 / n).sigmoid_()
    wr = r if weight is None else r * weight
    scale = g * wr
    shift = scale * -mu if bias is None else torch.addcmul(bias, scale, mu, value=-1)
    if residual is not None:
        residual = _as_layout_of(residual, x)
    # every NaN in y comes from a value that makes one of these sums NaN or infinite; the look costs more than a small
    # tensor's pass
    finite = relu and not passes.is_small(x) and math.isfinite((sums + shift).sum())
    y = passes.affine(x, scale, shift, x if overwrite else torch.empty_like(x), relu, residual, finite)
    return y, (sums, g, scale, mu, r, wr, *((y,) if relu else ()))


def _infer_one(
        x: Tensor, mean: Tensor, var: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], gate_weight: Tensor,
        gate_bias: Tensor, eps: float, relu: bool, residual: Optional[Tensor],
) -> Tensor:
    """``forward`` of one small instance by running statistics, in few calls: its gates are a weight per channel."""
    g = torch.addcmul(gate_bias, passes.instance_sum(x), gate_weight, value=1 / (x.size(2) * x.size(3))).sigmoid_()
    y = passes.affine_of_one(x, mean, var, (g if weight is None else g.mul_(weight)).view(-1), bias, eps)
    if residual is not None:
        y.add_(residual)
    return y.relu_() if relu else y


def statistics(saved: Saved, eps: float) -> Tuple[Tensor, Tensor]:
    """mu and var, (C,), by which ``forward`` normalized."""
    mu, r = saved[3:5]
    return mu, r.square().reciprocal_().sub_(eps)


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
        needs: Tuple[bool, ...],
) -> Gradients:
    """Gradients of x, weight, bias, gate_weight, gate_bias and the residual, if any; None where not needed."""
    sums, g, scale, mu, r, wr, *y = saved
    x = _dense(x)
    dy = _as_layout_of(dy, x)
    (gate_weight,) = _as(r.dtype, gate_weight)
    dx = torch.empty_like(x) if needs[0] or relu else None
    scratch = dx
    if relu and any(needs[5:]):
        dy = passes.relu_backward(dy, y[0], torch.empty_like(x))
    elif relu:  # what passed it, where dx will be written: a fresh tensor would cost more than the pass
        dy, scratch = passes.relu_backward(dy, y[0], dx), None
    n = x.size(2) * x.size(3)
    a, d = passes.gradient_sums(dy, x, mu, r, scratch)
    gd = g * d
    da = torch.addcmul(gd, gd, g, value=-1)  # gradient of the sigmoid's argument but for the factor weight·r
    d_weight = gd.sum(0).mul_(r)
    gradients = [None, d_weight, a.sum(0), None, da.sum(0).mul_(wr), *(dy for _ in needs[5:])]
    if needs[3]:
        gradients[3] = (da * sums).sum(0).mul_(wr).div_(n)
    if needs[0]:
        if training:
            minus_count = -x.size(0) * n
            k = (wr * r).mul_(d_weight).div_(minus_count).to(x.dtype).to(r.dtype)  # so that k·mu below is that of k·x
            constant = (g * a).sum(0).mul_(wr).div_(minus_count).addcmul_(k, mu, value=-1)
            c = torch.addcmul(constant, da, gate_weight * wr, value=1 / n)
        else:
            k, c = None, da.mul_(gate_weight * wr).div_(n)
        gradients[0] = passes.combine(dy, x, scale, k, c, dx)
    return tuple(t if needed else None for t, needed in zip(gradients, needs, strict=True))
