"""The instance mean behind a 1x1 convolution, from the one before it."""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from iebn_zoo.layers.hooks import has_hooks


def mean_behind(conv: nn.Module, x: Tensor) -> Optional[Tensor]:
    """mean_hw(conv(x)) = weight · mean_hw(x) + bias: where that is cheaper than reading the convolution's output.

    Args:
        conv: Convolution of any kind.
        x: Its input, (B, K, H, W).

    Returns:
        (B, C) of float32 or float64; None where the equation does not hold for ``conv``, where its output would have
        been rounded (16 bit types, autocast), where the weights are most of the work, or where something other than
        the eager engine runs this.
    """
    if torch.compiler.is_compiling() or isinstance(x, Proxy) or not _is_pointwise(conv):
        return None
    if x.device.type != 'cpu' or x.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled('cpu'):
        return None  # GPUs sum an instance where they normalize it
    fewer = x.size(0) * x.size(2) * x.size(3) * (conv.out_channels - conv.in_channels)
    if fewer < 4 * conv.weight.numel():
        return None
    with torch.no_grad():  # the operator knows the derivative of the mean
        return F.linear(x.mean((2, 3)), conv.weight.flatten(1), conv.bias)


def _is_pointwise(conv: nn.Module) -> bool:
    # the type itself: a parametrization or an observer makes another one of it, and a hook may change the output
    return (type(conv) is nn.Conv2d and conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1
            and conv.padding == (0, 0) and not has_hooks(conv))
