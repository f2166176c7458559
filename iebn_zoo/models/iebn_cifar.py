"""CIFAR networks in three norms, so that a comparison is one word away: ``{iebn,bn,se}_<net>_cifar``.

bn: BatchNorm2d. se: BatchNorm2d and squeeze-and-excitation on each residual branch. iebn: IEBatchNorm2d.
"""
from functools import partial
from typing import Any, Callable, Dict

from timm.layers.squeeze_excite import SEModule
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.models.cifar_blocks import PreActBottleneck, WideBasicBlock
from iebn_zoo.models.cifar_resnet import CifarResNet
from iebn_zoo.models.pretrained import shipped_cfgs
from iebn_zoo.models.reference_checkpoint import cifar_checkpoint_filter_fn

__all__ = ['CifarResNet']

# measured on the 50,000 training images of CIFAR-100
CIFAR_MEAN = (0.5071, 0.4865, 0.4409)
CIFAR_STD = (0.2673, 0.2564, 0.2762)


def _resnet(depth: int) -> Dict[str, Any]:
    return dict(block=BasicBlock, layers=((depth - 2) // 6,) * 3)


def _bottleneck(depth: int, **kwargs: Any) -> Dict[str, Any]:
    return dict(dict(block=Bottleneck, layers=((depth - 2) // 9,) * 3), **kwargs)


def _wrn(depth: int, widen: int) -> Dict[str, Any]:
    return dict(block=WideBasicBlock, layers=((depth - 4) // 6,) * 3, channels=(16 * widen, 32 * widen, 64 * widen),
                preact=True)


def _resnext(depth: int, group_width: int) -> Dict[str, Any]:
    # 8 groups of group_width channels in the first stage, so that the 3x3 convolution is twice as wide as the output
    return _bottleneck(depth, channels=(group_width, 2 * group_width, 4 * group_width), cardinality=8, base_width=64,
                       stem_width=group_width)


NETWORKS: Dict[str, Dict[str, Any]] = {
    'resnet20': _resnet(20),
    'resnet32': _resnet(32),
    'resnet44': _resnet(44),
    'resnet56': _resnet(56),
    'resnet110': _resnet(110),
    'resnet164': _bottleneck(164),
    'preresnet164': _bottleneck(164, block=PreActBottleneck, preact=True),
    'wrn16_8': _wrn(16, 8),
    'wrn28_10': _wrn(28, 10),
    'wrn40_4': _wrn(40, 4),
    'wrn52_4': _wrn(52, 4),
    'resnext29_8x32d': _resnext(29, 32),  # in the code of the IEBN authors
    'resnext29_8x64d': _resnext(29, 64),  # Xie et al., arXiv 1611.05431, section 5.3
    'resnext101_8x32d': _resnext(101, 32),
}

NORMS: Dict[str, Dict[str, Any]] = {
    'iebn': dict(norm_layer=IEBatchNorm2d),
    'bn': dict(norm_layer=nn.BatchNorm2d),
    # rd_divisor 1: a reduction of exactly 16 also for the narrow stages, where timm would round up to 8 channels
    'se': dict(norm_layer=nn.BatchNorm2d, attn_layer=partial(SEModule, rd_ratio=1 / 16, rd_divisor=1)),
}


def _cfg(norm: str) -> Dict[str, Any]:
    return dict(
        url='', num_classes=100, input_size=(3, 32, 32), pool_size=(8, 8), crop_pct=1.0, interpolation='bilinear',
        mean=CIFAR_MEAN, std=CIFAR_STD, first_conv='conv1', classifier='fc', license='apache-2.0',
        paper_ids='arXiv:1908.04008' if norm == 'iebn' else None)


def _entrypoint(norm: str, net: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        model_args = dict(NETWORKS[net], **NORMS[norm])
        # sizes may be changed (tests, small studies); what makes the name true may not
        clash = sorted({'block', 'preact', 'norm_layer', 'attn_layer'} & set(model_args) & set(kwargs))
        if clash:
            raise ValueError(f'{entrypoint.__name__} sets {clash[0]} itself, got {kwargs[clash[0]]!r}.')
        return build_model_with_cfg(
            CifarResNet, entrypoint.__name__, pretrained, pretrained_filter_fn=cifar_checkpoint_filter_fn,
            feature_cfg=dict(out_indices=(0, 1, 2, 3)), **dict(model_args, **kwargs))

    entrypoint.__name__ = entrypoint.__qualname__ = f'{norm}_{net}_cifar'
    entrypoint.__doc__ = f'{net} for 32 px images with {norm} norms; see CifarResNet for the arguments.'
    return entrypoint


default_cfgs = generate_default_cfgs({
    name: cfg for norm in NORMS for net in NETWORKS
    for name, cfg in shipped_cfgs(f'{norm}_{net}_cifar', _cfg(norm)).items()})

for _norm in NORMS:
    for _net in NETWORKS:
        globals()[f'{_norm}_{_net}_cifar'] = register_model(_entrypoint(_norm, _net))
