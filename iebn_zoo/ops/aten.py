"""IEBN on torch's own kernels, for any device: one native batch_norm, one affine map; gradients by autograd."""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from iebn_zoo.ops.reference import gate, instance_mean, scale_and_shift


def supports(x: Tensor, running_mean: Optional[Tensor]) -> bool:
    """Native batch_norm wants statistics of the dtype it computes in: float64 for float64, else float32."""
    return running_mean is None or running_mean.dtype == _wide(x.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


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
) -> Tensor:
    """y = weight * sigmoid(gate_weight * mean_hw(x) + gate_bias) * (x - mu) / sqrt(var + eps) + bias

    Arguments and result as ``iebn_zoo.ops.reference.ie_batch_norm``.
    """
    scale = gate(instance_mean(x), gate_weight, gate_bias)
    wide = x.to(_wide(x.dtype))
    if training or running_mean is None:
        wide = F.batch_norm(wide, running_mean, running_var, None, None, True, momentum, eps)
        shift = torch.zeros_like(scale)
    else:
        scale = scale * torch.rsqrt(running_var + eps)
        shift = -running_mean * scale
    return scale_and_shift(wide, scale, shift, weight, bias).to(x.dtype)
