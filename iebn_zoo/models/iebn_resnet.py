"""IEBN variants of the plain-BN ResNets, ResNeXts and Wide-ResNets of timm's resnet.py, ``iebn_<name of the base>``.

``imagenet_table`` lists them. timm's pretrained weights of each are there as tags ``bn_<tag>``: the BN network's
weights, converted on load to an IEBN network that computes the same.

Papers: IEBN, arXiv 1908.04008; timm.models.resnet lists those of the networks.
"""
from functools import partial
from typing import Any, Callable, Dict, Optional, Tuple, Type, Union

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from iebn_zoo._compat import has_load_hooks
from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.layers.start import BN, resolve_start
from iebn_zoo.models.bn_checkpoint import checkpoint_filter_fn, refuse_bn_state_dict
from iebn_zoo.models.imagenet_table import NETWORKS
from iebn_zoo.models.norms import fuse_activations, fusing_block, plain_shortcut_norms
from iebn_zoo.models.pretrained import pretrained_cfgs

__all__ = ['IEBNResNet']

PREFIX = 'iebn_'


class IEBNResNet(ResNet):
    """timm's ResNet with IEBatchNorm2d in the place of BatchNorm2d.

    Args:
        block: timm's BasicBlock or Bottleneck.
        layers: Blocks per stage.
        gate_downsample: Gate the norms of the shortcuts too. The reference network leaves those three plain.
        start: ``'paper'`` or ``'bn'``: what the new network computes; see IEBatchNorm2d.
        freeze_gate_weight: Hold every gate_weight at 0, as a control; see IEBatchNorm2d.
        zero_init_last: Start the weight of each block's last norm at 0. None means True (as in timm) with
            ``start='bn'`` and False with ``'paper'``: behind a gate that begins at 0.27, a branch that begins at 0
            opens 14 times slower than BatchNorm's (measured in scripts/benchmarks/zero_init).
        fuse_act: Let each norm compute the ReLU that follows it. This is faster; the function and the state dict are
            the same.
        **kwargs: timm's ResNet arguments.
    """

    _zero_init_last = False  # of networks that were pickled before it was kept

    def __init__(
            self,
            block: Type[Union[BasicBlock, Bottleneck]],
            layers: Tuple[int, ...],
            gate_downsample: bool = False,
            start: Optional[str] = None,
            freeze_gate_weight: bool = False,
            zero_init_last: Optional[bool] = None,
            fuse_act: bool = True,
            **kwargs: Any,
    ) -> None:
        if 'norm_layer' in kwargs:
            raise ValueError(
                f"norm_layer is {kwargs['norm_layer']!r}, but an IEBN model sets it itself. "
                f"Use timm's own model (the name without 'iebn_') for another norm.")
        self.start = resolve_start(start)
        norm_layer = partial(IEBatchNorm2d, start=self.start, freeze_gate_weight=freeze_gate_weight)
        self._zero_init_last = self.start == BN if zero_init_last is None else zero_init_last
        super().__init__(
            fusing_block(block) if fuse_act else block,  # pyright: ignore[reportArgumentType] - timm means Type[...]
            layers, norm_layer=norm_layer, zero_init_last=self._zero_init_last, **kwargs)
        if not gate_downsample:
            plain_shortcut_norms(self, **{k: kwargs.get(k) for k in ('device', 'dtype')})
        if fuse_act:
            fuse_activations(self)

    @torch.jit.ignore()
    def init_weights(self, zero_init_last: Optional[bool] = None) -> None:
        """Give the convolutions new random weights, as timm's ResNet.

        Args:
            zero_init_last: Set the weight of each residual branch's last norm to 0. None: as in the constructor.
        """
        super().init_weights(self._zero_init_last if zero_init_last is None else zero_init_last)

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        # timm's checkpoint_path comes here without a filter, and strict=False would hide what does not fit. Each layer
        # refuses it too; here nothing is loaded yet, and the message can name the model and timm's flags
        if not any(map(has_load_hooks, self.modules())):  # hooks may convert the tensors first
            refuse_bn_state_dict(state_dict, self, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)  # of the root alone, which has no tensors
        if has_load_hooks(self):
            refuse_bn_state_dict(state_dict, self, prefix)


def _create_iebn_resnet(variant: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        IEBNResNet, PREFIX + variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs)


def _entrypoint(base: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create_iebn_resnet(base, pretrained, **dict(NETWORKS[base], **kwargs))

    entrypoint.__name__ = entrypoint.__qualname__ = PREFIX + base
    entrypoint.__doc__ = f"timm's {base} with IEBatchNorm2d (arXiv 1908.04008); see IEBNResNet."
    return entrypoint


default_cfgs = generate_default_cfgs({
    name: cfg for base in NETWORKS for name, cfg in pretrained_cfgs(PREFIX + base, base).items()})

for _base in NETWORKS:
    globals()[PREFIX + _base] = register_model(_entrypoint(_base))
