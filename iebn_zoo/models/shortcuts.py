"""The reference network gates every norm but those of the shortcuts."""
from typing import Any

from torch import nn

from iebn_zoo.layers import IEBatchNorm2d


def plain_shortcut_norms(model: nn.Module, **dd: Any) -> None:
    """Replace each IEBatchNorm2d in a block's ``downsample`` by a fresh BatchNorm2d of its size.

    Args:
        model: Network of timm's residual blocks, changed in place.
        **dd: ``device`` and ``dtype`` of the new norms.
    """
    for block in model.modules():
        shortcut = getattr(block, 'downsample', None)
        if isinstance(shortcut, nn.Sequential):
            for name, norm in shortcut.named_children():
                if isinstance(norm, IEBatchNorm2d):
                    shortcut.register_module(name, nn.BatchNorm2d(norm.num_features, **dd))
