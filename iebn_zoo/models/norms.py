"""The norms of a network that timm's code has built: plain in shortcuts, elsewhere fused with the ReLU behind them."""
from typing import Any, Dict, List, Tuple, Type, Union

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from iebn_zoo._compat import children_of
from iebn_zoo.layers import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.models.cifar_blocks import PreActBottleneck, WideBasicBlock
from iebn_zoo.models.iebn_blocks import IEBNBasicBlock, IEBNBottleneck

Block = Type[Union[BasicBlock, Bottleneck, PreActBottleneck, WideBasicBlock]]

# timm's blocks that end in norm, sum and ReLU, and ours that can let the norm do all three
_FUSING: Dict[Block, Block] = {BasicBlock: IEBNBasicBlock, Bottleneck: IEBNBottleneck}

# (norm, activation, what stands between them and must be an identity)
_PAIRS: Dict[Type[nn.Module], Tuple[Tuple[str, str, str], ...]] = {
    IEBNBasicBlock: (('bn1', 'act1', 'drop_block'),),
    IEBNBottleneck: (('bn1', 'act1', ''), ('bn2', 'act2', 'drop_block')),
    PreActBottleneck: (('bn1', 'act1', ''), ('bn2', 'act2', ''), ('bn3', 'act3', 'drop_block')),
    WideBasicBlock: (('bn1', 'act1', ''), ('bn2', 'act2', 'drop_block')),
}
_LAST: Dict[Type[nn.Module], Tuple[str, str]] = {IEBNBasicBlock: ('bn2', 'act2'), IEBNBottleneck: ('bn3', 'act3')}


def fusing_block(block: Block) -> Block:
    """Return the block class of which to build a network that ``fuse_activations`` can fuse completely."""
    return _FUSING.get(block, block)


def fuse_activations(model: ResNet) -> None:
    """Make each IEBN norm of ``model`` compute the ReLU behind it, and put an identity in the place of the ReLU.

    At the end of a block, where the sum with the shortcut stands between the two, the norm computes that too. Names of
    parameters and buffers stay as they are. Each fused pair saves a pass over the tensor and, in training, a gradient
    tensor of its size. Norms in shortcuts have no ReLU directly behind them.

    Args:
        model: timm's ResNet or CifarResNet of ``fusing_block`` blocks, changed in place.
    """
    _fuse(model, 'bn1', 'act1')
    if hasattr(model, 'norm'):
        _fuse(model, 'norm', 'act')
    for block in list(model.modules()):
        for norm, act, between in _PAIRS.get(type(block), ()):
            if not between or type(getattr(block, between)) is nn.Identity:
                _fuse(block, norm, act)
        if type(block) in _LAST and block.se is None and block.drop_path is None:
            vars(block).update(norm_adds_shortcut=_fuse(block, *_LAST[type(block)]))
    if isinstance(model.conv1, nn.Sequential):
        names = list(children_of(model.conv1))
        for norm, act in zip(names, names[1:], strict=False):
            _fuse(model.conv1, norm, act)


def _fuse(parent: nn.Module, norm: str, act: str) -> bool:
    children = children_of(parent)
    plain, relu = children[norm], children[act]
    if type(plain) is not IEBatchNorm2d or type(relu) is not nn.ReLU:
        return False
    children[norm] = IEBatchNormAct2d.from_norm(plain, relu)
    children[act] = nn.Identity()
    return True


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
