"""The networks of the ImageNet family: timm's plain-BN ResNets, ResNeXts and Wide-ResNets, one row per name.

Each row holds the arguments that timm's entrypoint of the same name gives to ``timm.models.resnet.ResNet``.
tests/models/test_imagenet_table.py compares them with the installed timm.
"""
from typing import Any, Dict

from timm.layers.blur_pool import BlurPool2d
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

# the letters behind timm's names: stems of three 3x3 convolutions; d and t also pool in the shortcuts
_C: Dict[str, Any] = dict(stem_width=32, stem_type='deep')
_D: Dict[str, Any] = dict(stem_width=32, stem_type='deep', avg_down=True)
_S: Dict[str, Any] = dict(stem_width=64, stem_type='deep')
_T: Dict[str, Any] = dict(stem_width=32, stem_type='deep_tiered', avg_down=True)

NETWORKS: Dict[str, Dict[str, Any]] = {
    'resnet10t': dict(block=BasicBlock, layers=(1, 1, 1, 1), **_T),
    'resnet14t': dict(block=Bottleneck, layers=(1, 1, 1, 1), **_T),
    'resnet18': dict(block=BasicBlock, layers=(2, 2, 2, 2)),
    'resnet18d': dict(block=BasicBlock, layers=(2, 2, 2, 2), **_D),
    'resnet34': dict(block=BasicBlock, layers=(3, 4, 6, 3)),
    'resnet34d': dict(block=BasicBlock, layers=(3, 4, 6, 3), **_D),
    'resnet26': dict(block=Bottleneck, layers=(2, 2, 2, 2)),
    'resnet26t': dict(block=Bottleneck, layers=(2, 2, 2, 2), **_T),
    'resnet26d': dict(block=Bottleneck, layers=(2, 2, 2, 2), **_D),
    'resnet50': dict(block=Bottleneck, layers=(3, 4, 6, 3)),
    'resnet50c': dict(block=Bottleneck, layers=(3, 4, 6, 3), **_C),
    'resnet50d': dict(block=Bottleneck, layers=(3, 4, 6, 3), **_D),
    'resnet50s': dict(block=Bottleneck, layers=(3, 4, 6, 3), **_S),
    'resnet50t': dict(block=Bottleneck, layers=(3, 4, 6, 3), **_T),
    'resnet101': dict(block=Bottleneck, layers=(3, 4, 23, 3)),
    'resnet101c': dict(block=Bottleneck, layers=(3, 4, 23, 3), **_C),
    'resnet101d': dict(block=Bottleneck, layers=(3, 4, 23, 3), **_D),
    'resnet101s': dict(block=Bottleneck, layers=(3, 4, 23, 3), **_S),
    'resnet152': dict(block=Bottleneck, layers=(3, 8, 36, 3)),
    'resnet152c': dict(block=Bottleneck, layers=(3, 8, 36, 3), **_C),
    'resnet152d': dict(block=Bottleneck, layers=(3, 8, 36, 3), **_D),
    'resnet152s': dict(block=Bottleneck, layers=(3, 8, 36, 3), **_S),
    'resnet200': dict(block=Bottleneck, layers=(3, 24, 36, 3)),
    'resnet200d': dict(block=Bottleneck, layers=(3, 24, 36, 3), **_D),
    'wide_resnet50_2': dict(block=Bottleneck, layers=(3, 4, 6, 3), base_width=128),
    'wide_resnet101_2': dict(block=Bottleneck, layers=(3, 4, 23, 3), base_width=128),
    'resnext50_32x4d': dict(block=Bottleneck, layers=(3, 4, 6, 3), cardinality=32, base_width=4),
    'resnext50d_32x4d': dict(block=Bottleneck, layers=(3, 4, 6, 3), cardinality=32, base_width=4, **_D),
    'resnext101_32x4d': dict(block=Bottleneck, layers=(3, 4, 23, 3), cardinality=32, base_width=4),
    'resnext101_32x8d': dict(block=Bottleneck, layers=(3, 4, 23, 3), cardinality=32, base_width=8),
    'resnext101_32x16d': dict(block=Bottleneck, layers=(3, 4, 23, 3), cardinality=32, base_width=16),
    'resnext101_32x32d': dict(block=Bottleneck, layers=(3, 4, 23, 3), cardinality=32, base_width=32),
    'resnext101_64x4d': dict(block=Bottleneck, layers=(3, 4, 23, 3), cardinality=64, base_width=4),
    'resnetblur18': dict(block=BasicBlock, layers=(2, 2, 2, 2), aa_layer=BlurPool2d),
    'resnetblur50': dict(block=Bottleneck, layers=(3, 4, 6, 3), aa_layer=BlurPool2d),
    'resnetblur50d': dict(block=Bottleneck, layers=(3, 4, 6, 3), aa_layer=BlurPool2d, **_D),
    'resnetblur101d': dict(block=Bottleneck, layers=(3, 4, 23, 3), aa_layer=BlurPool2d, **_D),
    'resnetaa34d': dict(block=BasicBlock, layers=(3, 4, 6, 3), aa_layer=nn.AvgPool2d, **_D),
    'resnetaa50': dict(block=Bottleneck, layers=(3, 4, 6, 3), aa_layer=nn.AvgPool2d),
    'resnetaa50d': dict(block=Bottleneck, layers=(3, 4, 6, 3), aa_layer=nn.AvgPool2d, **_D),
    'resnetaa101d': dict(block=Bottleneck, layers=(3, 4, 23, 3), aa_layer=nn.AvgPool2d, **_D),
}
