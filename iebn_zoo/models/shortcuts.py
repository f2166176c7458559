"""The reference network gates every norm but those of the shortcuts."""
from typing import Any, List

import torch
from torch import nn

from iebn_zoo.layers import IEBatchNorm2d


def plain_shortcut_norms(model: nn.Module, **dd: Any) -> None:
    """Replace each IEBatchNorm2d in a block's ``downsample`` by a fresh BatchNorm2d of its size.

    Args:
        model: Network of timm's residual blocks, changed in place.
        **dd: ``device`` and ``dtype`` of the new norms.
    """
    for shortcut in _shortcuts(model):
        for name, norm in shortcut.named_children():
            if isinstance(norm, IEBatchNorm2d):
                shortcut.register_module(name, nn.BatchNorm2d(norm.num_features, **dd))


@torch.no_grad()
def scale_norms(model: nn.Module, factor: float, shortcuts: bool) -> None:
    """Multiply the weight of each BatchNorm2d by ``factor``.

    Args:
        model: Network of timm's residual blocks, changed in place.
        factor: Of the weights.
        shortcuts: Include the norms in a block's ``downsample``.
    """
    spared = set() if shortcuts else {norm for shortcut in _shortcuts(model) for norm in shortcut}
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm not in spared:
            norm.weight.mul_(factor)


def _shortcuts(model: nn.Module) -> List[nn.Sequential]:
    found = [getattr(block, 'downsample', None) for block in model.modules()]
    return [shortcut for shortcut in found if isinstance(shortcut, nn.Sequential)]
