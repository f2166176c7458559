"""IEBN in plain torch ops on native batch_norm: what exporters, tracers and function transforms see."""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from iebn_zoo.ops.reference import gate, instance_mean, scale_and_shift


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

    Arguments and result as ``iebn_zoo.ops.ie_batch_norm``; gradients by autograd.
    """
    scale = gate(instance_mean(x), gate_weight, gate_bias)
    wide = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    if training or running_mean is None:
        wide = _normalize(wide, running_mean, running_var, momentum, eps)
        shift = torch.zeros_like(scale)
    else:
        assert running_var is not None
        scale = scale * torch.rsqrt(running_var.to(wide.dtype) + eps)
        shift = -running_mean * scale
    y = scale_and_shift(wide, scale, shift, weight, bias).to(x.dtype)
    if residual is not None:
        y = y + residual
    return torch.relu(y) if relu else y


def _normalize(
        wide: Tensor, running_mean: Optional[Tensor], running_var: Optional[Tensor], momentum: float, eps: float,
) -> Tensor:
    if torch.compiler.is_compiling():  # what compiles an exported graph fuses the formula, but not batch_norm
        var, mu = torch.var_mean(wide, (0, 2, 3), correction=0)
        if running_mean is not None:
            assert running_var is not None
            count = wide.size(0) * wide.size(2) * wide.size(3)
            with torch.no_grad():
                running_mean.mul_(1 - momentum).add_(mu, alpha=momentum)
                running_var.mul_(1 - momentum).add_(var, alpha=momentum * count / (count - 1))
        return (wide - mu[:, None, None]) * torch.rsqrt(var + eps)[:, None, None]
    if running_mean is None or running_mean.dtype == wide.dtype:
        return F.batch_norm(wide, running_mean, running_var, None, None, True, momentum, eps)
    assert running_var is not None
    # native batch_norm wants statistics of the dtype it computes in; narrow ones take a detour
    mu, var = running_mean.to(wide.dtype), running_var.to(wide.dtype)
    y = F.batch_norm(wide, mu, var, None, None, True, momentum, eps)
    with torch.no_grad():
        running_mean.copy_(mu)
        running_var.copy_(var)
    return y
