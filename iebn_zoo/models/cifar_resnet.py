"""The residual networks for 32 px images: a 3x3 stem without pooling, three stages, total stride 4."""
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Tuple, Type, Union

import torch
from timm.layers.classifier import create_classifier
from timm.layers.create_act import get_act_layer
from timm.layers.typing import LayerType
from timm.models import checkpoint_seq
from timm.models.resnet import ResNet, make_blocks
from torch import Tensor, nn

from iebn_zoo._compat import feature_take_indices, has_load_hooks, is_scripting
from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.layers.start import CIFAR_START, resolve_start
from iebn_zoo.models.norms import Block, fuse_activations, fusing_block, plain_shortcut_norms, set_norm_weights
from iebn_zoo.models.reference_checkpoint import refuse_reference_state_dict

_STEM_STRIDE_OF_TIMM = 4  # make_blocks counts from an ImageNet stem


class CifarResNet(ResNet):
    """timm's ResNet interface on the CIFAR networks of the IEBN reference code.

    He et al., arXiv 1512.03385, section 4.2 (ResNet); arXiv 1603.05027 (PreResNet); arXiv 1605.07146 (WRN);
    arXiv 1611.05431, section 5.3 (ResNeXt). Convolutions start from normal(0, sqrt(2 / (k·k·out))) and no norm from
    zero, as in the reference.

    Args:
        block: Residual block class.
        layers: Blocks in each of the three stages.
        num_classes: Classes; 0 for no classifier.
        in_chans: Image channels.
        output_stride: Total stride 4, 2 or 1; the stages beyond it are dilated instead.
        global_pool: timm's pooling name.
        cardinality: Groups of the 3x3 convolution (Bottleneck).
        base_width: Width of the 3x3 convolution for 64 planes (Bottleneck).
        stem_width: Channels of the stem.
        channels: Planes of the three stages, before the block's expansion.
        preact: Blocks are pre-activation ones: no norm in the stem, one before the pool.
        act_layer: Activation class, or timm's name of one such as ``'silu'``.
        norm_layer: Norm class.
        attn_layer: timm attention on the output of each residual branch.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth, growing linearly over the blocks.
        drop_block_rate: DropBlock, in the last stage.
        zero_init_last: Start each residual branch's last norm from 0.
        gate_downsample: Gate the norms of the shortcuts too. The reference leaves them plain.
        start: ``'paper'`` or ``'bn'``: what a new IEBN network computes; see IEBatchNorm2d. None: ``'bn'``, the better
            one on CIFAR-100 (measured in scripts/benchmarks/start). A network without gates has one start and accepts
            both names, so that one recipe fits a network in all three norms.
        freeze_gate_weight: Hold every gate_weight at 0, as a control; see IEBatchNorm2d.
        norm_weight_init: First value of every BatchNorm weight outside the shortcuts, in networks without gates. With
            sigmoid(-1) = 0.2689 the new network computes what a new IEBN network with the paper's start computes. This
            control tells the effect of the slow start from that of the gates.
        fuse_act: Let each IEBN norm compute the ReLU that follows it. This is faster; the function and the state dict
            are the same.
        block_args: Further arguments of the block (``conv_drop_rate`` of WRN).
        device: Of the parameters.
        dtype: Of the parameters.

    Shape:
        (B, in_chans, H, W) -> (B, num_classes), any H, W >= 4.

    Raises:
        ValueError: ``output_stride`` is none of 1, 2, 4; ``layers`` or ``channels`` are not three; ``start`` is
            unknown; ``freeze_gate_weight`` without gates, or ``norm_weight_init`` with gates.
    """

    _zero_init_last = False  # of networks that were pickled before it was kept

    def __init__(
            self,
            block: Block,
            layers: Tuple[int, int, int],
            num_classes: int = 100,
            in_chans: int = 3,
            output_stride: int = 4,
            global_pool: str = 'avg',
            cardinality: int = 1,
            base_width: int = 64,
            stem_width: int = 16,
            channels: Tuple[int, int, int] = (16, 32, 64),
            preact: bool = False,
            act_layer: LayerType = nn.ReLU,
            norm_layer: Type[nn.Module] = IEBatchNorm2d,
            attn_layer: Any = None,
            drop_rate: float = 0.,
            drop_path_rate: float = 0.,
            drop_block_rate: float = 0.,
            zero_init_last: bool = False,
            gate_downsample: bool = False,
            start: Optional[str] = None,
            freeze_gate_weight: bool = False,
            norm_weight_init: float = 1.0,
            fuse_act: bool = True,
            block_args: Optional[Dict[str, Any]] = None,
            device: Any = None,
            dtype: Optional[torch.dtype] = None,
    ) -> None:
        nn.Module.__init__(self)  # ResNet's own would build an ImageNet stem and four stages
        if output_stride not in (1, 2, 4):
            raise ValueError(f'output_stride of a CIFAR network is 1, 2 or 4, got {output_stride}.')
        for name, values in (('layers', layers), ('channels', channels)):
            if len(values) != 3:
                raise ValueError(f'{name} is {values!r}; expected one number for each of the three stages.')
        dd: Dict[str, Any] = {k: v for k, v in (('device', device), ('dtype', dtype)) if v is not None}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        gated = norm_layer is IEBatchNorm2d
        self.start = resolve_start(start, default=CIFAR_START)
        make_act = get_act_layer(act_layer)
        if make_act is None:
            raise ValueError(f"act_layer is {act_layer!r}; expected a class, or timm's name of one such as 'silu'.")
        if gated and norm_weight_init != 1:
            raise ValueError(f'norm_weight_init={norm_weight_init} is for networks without gates; use start.')
        if not gated and freeze_gate_weight:
            raise ValueError('freeze_gate_weight=True is for networks with gates, iebn_*; leave it out.')
        make_norm: Callable[..., nn.Module] = norm_layer
        if gated:
            make_norm = partial(norm_layer, start=self.start, freeze_gate_weight=freeze_gate_weight)

        self.conv1 = nn.Conv2d(in_chans, stem_width, 3, padding=1, bias=False, **dd)
        self.bn1 = nn.Identity() if preact else make_norm(stem_width, **dd)
        self.act1 = nn.Identity() if preact else make_act(inplace=True)
        self.feature_info = [dict(num_chs=stem_width, reduction=1, module='act1')]

        width_args = {} if preact else dict(cardinality=cardinality, base_width=base_width)
        if fuse_act:
            block = fusing_block(block)
        stages, infos = make_blocks(
            (block,) * 3,  # pyright: ignore[reportArgumentType] - timm names its own blocks alone
            channels, layers, stem_width, output_stride=output_stride * _STEM_STRIDE_OF_TIMM,
            drop_block_rate=drop_block_rate, drop_path_rate=drop_path_rate, act_layer=make_act, norm_layer=make_norm,
            attn_layer=attn_layer, **width_args, **(block_args or {}), **dd)
        (_, self.layer1), (_, self.layer2), (_, self.layer3) = stages
        self.feature_info += [dict(info, reduction=info['reduction'] // _STEM_STRIDE_OF_TIMM) for info in infos]
        self.num_features = channels[-1] * block.expansion
        self.norm = make_norm(self.num_features, **dd) if preact else nn.Identity()
        self.act = make_act(inplace=True) if preact else nn.Identity()

        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, **dd)[:2]
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        if not gate_downsample:
            plain_shortcut_norms(self, **dd)
        if norm_weight_init != 1:
            set_norm_weights(self, norm_weight_init)
        if fuse_act:
            fuse_activations(self)
        self._zero_init_last = zero_init_last
        self.init_weights()

    @torch.jit.ignore()
    def init_weights(self, zero_init_last: Optional[bool] = None) -> None:
        """Give the convolutions new random weights, as timm's ResNet.

        Args:
            zero_init_last: Set the weight of each residual branch's last norm to 0. None: as in the constructor.
        """
        super().init_weights(self._zero_init_last if zero_init_last is None else zero_init_last)

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        # timm's checkpoint_path comes here without a filter, and strict=False would hide what does not fit
        if not any(map(has_load_hooks, self.modules())):  # hooks may convert the tensors first
            refuse_reference_state_dict(state_dict, self, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)  # of the root alone, which has no tensors
        if has_load_hooks(self):
            refuse_reference_state_dict(state_dict, self, prefix)

    @torch.jit.ignore()
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Return the regular expressions of timm's parameter groups, which layer decay uses."""
        blocks = r'^layer(\d+)' if coarse else r'^layer(\d+)\.(\d+)'
        return dict(stem=r'^conv1|bn1', blocks=[(blocks, None), (r'^norm', (99999,))])

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute (B, num_features, H/4, W/4) from (B, in_chans, H, W)."""
        x = self.act1(self.bn1(self.conv1(x)))
        if self.grad_checkpointing and not is_scripting():
            x = checkpoint_seq([self.layer1, self.layer2, self.layer3], x, flatten=True)
        else:
            x = self.layer3(self.layer2(self.layer1(x)))
        return self.act(self.norm(x))

    def forward_intermediates(
            self,
            x: Tensor,
            indices: Optional[Union[int, List[int]]] = None,
            norm: bool = False,
            stop_early: bool = False,
            output_fmt: str = 'NCHW',
            intermediates_only: bool = False,
    ) -> Union[List[Tensor], Tuple[Tensor, List[Tensor]]]:
        """Return what timm's ResNet does: outputs of the stem (0) and of the stages (1 to 3), raw unless ``norm``."""
        if output_fmt != 'NCHW':
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}.")
        take, last = feature_take_indices(4, indices)
        taken = []
        x = self.act1(self.bn1(self.conv1(x)))
        if 0 in take:
            taken.append(x)
        for i in range(1, (last if stop_early else 3) + 1):
            stage = getattr(self, f'layer{i}')
            use_checkpoint = self.grad_checkpointing and not is_scripting()
            x = checkpoint_seq(stage, x) if use_checkpoint else stage(x)
            if i in take:
                taken.append(x)
        complete = last == 3 or not stop_early
        if complete and ((norm and 3 in take) or not intermediates_only):
            x = self.act(self.norm(x))  # once: in training it moves the statistics
            if norm and 3 in take:
                taken[-1] = x  # they are in the order of the network, whatever that of the indices
        return taken if intermediates_only else (x, taken)

    def prune_intermediate_layers(
            self,
            indices: Union[int, List[int]] = 1,
            prune_norm: bool = False,
            prune_head: bool = True,
    ) -> List[int]:
        """Drop what lies behind the last of the wanted intermediates, and return their indices."""
        take, last = feature_take_indices(4, indices)
        for i in range(last + 1, 4):
            setattr(self, f'layer{i}', nn.Sequential())
        if prune_norm or last < 3:
            self.norm = self.act = nn.Identity()
        if last < 3:
            self.num_features = self.head_hidden_size = self.feature_info[last]['num_chs']
        if prune_head or last < 3:
            self.reset_classifier(0, '')
        return take
