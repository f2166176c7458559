"""The norm of a convolution's output. In inference it needs no second tensor of that size."""
from typing import Any

import torch
from torch import Tensor, nn

from iebn_zoo._compat import has_global_hooks, is_hooked
from iebn_zoo.layers.iebn_act import IEBatchNormAct2d


def norm_of_output(conv: nn.Module, norm: nn.Module, y: Tensor, *residual: Tensor) -> Tensor:
    """Compute norm(y, *residual) for y = conv(x), and write it over y where nobody else can see that.

    A fresh tensor of that size costs the CPU more than the arithmetic on it.

    Args:
        conv: Convolution of any kind.
        norm: Norm of any kind; IEBatchNormAct2d can write over its input.
        y: What ``conv`` has just returned. Only ``norm`` uses it.
        *residual: Further input of ``norm``.
    """
    if _is_unseen(conv, norm, y):
        return norm(y, *(residual or (None,)), overwrite=True)
    return norm(y, *residual)


def _is_unseen(conv: nn.Module, norm: nn.Module, y: Any) -> bool:
    # the types themselves: a subclass may keep what it returns or is given, and so may a hook; a user may ask an FX
    # graph, whose proxies are not tensors, for any node in it
    return (
        not torch.is_grad_enabled() and type(y) is Tensor and type(conv) is nn.Conv2d and type(norm) is IEBatchNormAct2d
        and not (is_hooked(conv) or is_hooked(norm) or has_global_hooks()))
