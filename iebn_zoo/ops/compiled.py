"""IEBN and its gradients in closed form (README.md beside this file) in plain ops: what torch.compile sees and fuses.

Autograd through the formula would write a float32 tensor of the size of ``x`` and read it again; in closed form the
compiled passes over ``x`` and the gradients are those of BatchNorm.
"""
from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from iebn_zoo.ops.reference import gate, instance_mean


def ie_batch_norm(
        x: Tensor,
        running_mean: Optional[Tensor],
        running_var: Optional[Tensor],
        weight: Optional[Tensor],
        bias: Optional[Tensor],
        gate_weight: Tensor,
        gate_bias: Tensor,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
        relu: bool = False,
        residual: Optional[Tensor] = None,
) -> Tensor:
    """y = weight * sigmoid(gate_weight * mean_hw(x) + gate_bias) * (x - mu) / sqrt(var + eps) + bias

    Arguments and result as ``iebn_zoo.ops.ie_batch_norm``, on any device; differentiable twice where no compiler
    refuses it.
    """
    by_batch = training or running_mean is None
    if by_batch:
        m, mu, var = _statistics(x)
        if running_mean is not None:
            assert running_var is not None
            count = x.size(0) * x.size(2) * x.size(3)
            with torch.no_grad():
                running_mean.mul_(1 - momentum).add_(mu, alpha=momentum)
                running_var.mul_(1 - momentum).add_(var, alpha=momentum * count / (count - 1))
    else:
        assert running_mean is not None and running_var is not None
        m = instance_mean(x)
        mu, var = running_mean.to(m.dtype), running_var.to(m.dtype)
    y = _normalize(x, weight, bias, gate_weight, gate_bias, m, mu, torch.rsqrt(var + eps), by_batch)
    if residual is not None:
        y = y + residual
    return _relu(y) if relu else y


def _statistics(x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Compute instance means (B, C), batch mean (C,) and biased batch variance (C,) from one read of x."""
    wide = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    # relative to some value of the channel, means are of the size of the deviation: the rounding of a large common mean
    # would cost their differences precision; the sum is over that one value, or over nothing in an empty batch
    origin = wide[:1, :, :1, :1].detach().sum((0, 2, 3))
    v, m = torch.var_mean(wide - origin[:, None, None], (2, 3), correction=0)
    mu = m.mean(0)
    return m + origin, mu + origin, (v + (m - mu).square()).mean(0)


# Dynamo puts a call of this function into its graph, which AOTAutograd then traces with the gradients of the node. Had
# Dynamo traced the node itself, the graph would contain a higher-order operator, which older releases cannot split for
# DistributedDataParallel.
@torch.compiler.allow_in_graph
def _normalize(*arguments: Any) -> Tensor:
    return _ClosedForm.apply(*arguments)


def _relu(y: Tensor) -> Tensor:
    if y.device.type == 'cpu' and torch.is_grad_enabled() and y.requires_grad:
        return _relu_by_sign(y)
    return torch.relu(y)


@torch.compiler.allow_in_graph
def _relu_by_sign(y: Tensor) -> Tensor:
    return _ReLU.apply(y)


class _ReLU(torch.autograd.Function):
    """y = max(z, 0), dz = dy * sign(y)

    The compiler keeps the condition of torch.relu's gradient as a tensor of bool, whose reading and writing inductor
    does not vectorize on the CPU: it takes ten times as long as the norm. The sign of the output, which is kept anyway,
    says the same, with two exceptions: an infinite or nan dy gives nan, not 0, where y is 0, and where y is nan, dz is
    0 and not dy.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        y = z.clamp_min(0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return dy * torch.sign(y)


class _ClosedForm(torch.autograd.Function):
    """y = weight * g * (x - mu) * r + bias, g = sigmoid(gate_weight * m + gate_bias)

    ``backward`` gives ``x`` the whole of its gradient, with what passes through m, mu and r, which therefore take none.
    They are inputs, and have an autograd graph of their own, for the second derivative: all that ``backward`` reads
    is an input, so that it can be differentiated as it stands.
    """

    @staticmethod
    def forward(
            ctx: Any,
            x: Tensor,
            weight: Optional[Tensor],
            bias: Optional[Tensor],
            gate_weight: Tensor,
            gate_bias: Tensor,
            m: Tensor,
            mu: Tensor,
            r: Tensor,
            by_batch: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, gate_weight, gate_bias, m, mu, r)
        ctx.by_batch, ctx.has_bias = by_batch, bias is not None
        scale = gate(m, gate_weight, gate_bias) * (r if weight is None else r * weight)
        y = (x - mu[:, None, None]) * scale[:, :, None, None]
        return (y if bias is None else y + bias[:, None, None]).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, weight, gate_weight, gate_bias, m, mu, r = ctx.saved_tensors
        n = x.size(2) * x.size(3)
        dy, centred = dy.to(r.dtype), x - mu[:, None, None]
        g = gate(m, gate_weight, gate_bias)
        wr = r if weight is None else r * weight
        a = dy.sum((2, 3))
        gp = g * r * (dy * centred).sum((2, 3))
        d_weight = gp.sum(0)
        da = gp * (1 - g) if weight is None else weight * gp * (1 - g)
        dx = (g * wr)[:, :, None, None] * dy
        constant = gate_weight * da / n
        if ctx.by_batch:
            count = x.size(0) * n
            constant = constant - wr * (g * a).sum(0) / count
            dx = dx - (wr * r * d_weight / count)[:, None, None] * centred
        dx = (dx + constant[:, :, None, None]).to(x.dtype)
        # a compiler leaves out what nobody needs
        return (
            dx, None if weight is None else d_weight, a.sum(0) if ctx.has_bias else None, (da * m).sum(0), da.sum(0),
            None, None, None, None)
