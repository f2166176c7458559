"""The norms of the shortcuts, which the reference network leaves plain."""
from typing import Any, List

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


def set_norm_weights(model: nn.Module, value: float) -> None:
    """Set the weight of each BatchNorm2d outside the shortcuts to ``value``.

    Args:
        model: Network of timm's residual blocks, changed in place.
        value: Of every channel.
    """
    spared = {norm for shortcut in _shortcuts(model) for norm in shortcut}
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm not in spared:
            nn.init.constant_(norm.weight, value)


def _shortcuts(model: nn.Module) -> List[nn.Sequential]:
    found = [getattr(block, 'downsample', None) for block in model.modules()]
    return [shortcut for shortcut in found if isinstance(shortcut, nn.Sequential)]
