"""The oracle: IEBN in plain torch, one line per line of the paper. Any device, any dtype, gradients by autograd.

Notation (README.md beside this file): x is (B, C, H, W), parameters and batch statistics are (C,), instance means and
gates are (B, C). Arithmetic is float32, or float64 where the input is; the output has the input's dtype.
"""
from typing import Optional

import torch
from torch import Tensor


def check_values(x: Tensor) -> None:
    """Raise ValueError unless x, (B, C, H, W), is of a floating dtype of 16 bits or more and has an H·W above 0."""
    dtype = x.dtype
    # spelled out for speed, the most frequent first: a small layer runs this in every step
    if dtype != torch.float32 and dtype != torch.bfloat16 and dtype != torch.float16 and dtype != torch.float64:
        raise ValueError(
            f'an input of dtype {dtype} cannot be normalized: IEBN expects float32, float64, float16 or bfloat16. '
            'Convert it, such as with x.float().')
    _, _, h, w = x.shape  # not numel: the size of the batch may be unknown while a graph is captured
    if (h == 0 or w == 0) and x.size(0) > 0:
        raise ValueError(
            f'an input of {x.size(2)}x{x.size(3)} pixels has no mean that could set its gates: IEBN expects at least '
            '1x1. Use larger images or fewer strides.')


@torch.fx.wrap
def instance_mean(x: Tensor) -> Tensor:
    """Compute m[b,c] = mean over H, W of x[b,c]: (B, C, H, W) -> (B, C), in float32 or float64."""
    # wrapped for FX: the choice of dtype is a Python branch, which a symbolic trace cannot take
    return x.mean((2, 3), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def gate(mean: Tensor, gate_weight: Tensor, gate_bias: Tensor) -> Tensor:
    """Compute g[b,c] = sigmoid(gate_weight[c] * m[b,c] + gate_bias[c]): (B, C) -> (B, C) in (0, 1)."""
    return torch.sigmoid(gate_weight * mean + gate_bias)


def scale_and_shift(
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        weight: Optional[Tensor],
        bias: Optional[Tensor],
) -> Tensor:
    """Compute y[b,c] = weight[c] * (scale[b,c] * x[b,c] + shift[b,c]) + bias[c], rounded once, to the dtype of x.

    Args:
        x: (B, C, H, W).
        scale: (B, C).
        shift: (B, C).
        weight: (C,) or None for 1.
        bias: (C,) or None for 0.
    """
    if weight is not None:
        scale, shift = scale * weight, shift * weight
    if bias is not None:
        shift = shift + bias
    return (x * scale[:, :, None, None] + shift[:, :, None, None]).to(x.dtype)


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

    (section 3 of arXiv 1908.04008). mu, var are the batch's where ``training`` or where no running statistics are
    given, and the running ones otherwise. In training the running statistics are updated in place, with the unbiased
    variance, as in ``torch.nn.functional.batch_norm``.

    Args:
        x: (B, C, H, W).
        running_mean: (C,) or None.
        running_var: (C,) or None.
        weight: (C,) or None for 1.
        bias: (C,) or None for 0.
        gate_weight: (C,).
        gate_bias: (C,).
        training: Normalize by the batch and update the running statistics.
        momentum: Share of the batch in the updated running statistics.
        eps: Added to the variance.

    Returns:
        (B, C, H, W), dtype of ``x``.
    """
    wide = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    if training or running_mean is None:
        mu = wide.mean((0, 2, 3))
        var = (wide - mu[:, None, None]).square().mean((0, 2, 3))
        if running_mean is not None:
            assert running_var is not None
            m = x.numel() // x.shape[1]
            with torch.no_grad():
                running_mean.lerp_(mu.to(running_mean.dtype), momentum)
                running_var.lerp_((var * (m / (m - 1))).to(running_var.dtype), momentum)
    else:
        assert running_var is not None
        mu, var = running_mean.to(wide.dtype), running_var.to(wide.dtype)
    x_hat = (wide - mu[:, None, None]) / torch.sqrt(var + eps)[:, None, None]
    scale = gate(instance_mean(x), gate_weight, gate_bias)
    return scale_and_shift(x_hat, scale, torch.zeros_like(scale), weight, bias).to(x.dtype)
