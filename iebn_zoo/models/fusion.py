"""Norm and ReLU in one layer, where one follows the other in our networks."""
from typing import Dict, Tuple, Type

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from iebn_zoo.layers import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.models.cifar_blocks import PreActBottleneck, WideBasicBlock
from iebn_zoo.models.iebn_blocks import IEBNBasicBlock, IEBNBottleneck

# timm's blocks that end in norm, sum and ReLU, and ours that can let the norm do all three
_FUSING: Dict[Type[nn.Module], Type[nn.Module]] = {BasicBlock: IEBNBasicBlock, Bottleneck: IEBNBottleneck}

# (norm, activation, what stands between them and must be an identity)
_PAIRS: Dict[Type[nn.Module], Tuple[Tuple[str, str, str], ...]] = {
    IEBNBasicBlock: (('bn1', 'act1', 'drop_block'),),
    IEBNBottleneck: (('bn1', 'act1', ''), ('bn2', 'act2', 'drop_block')),
    PreActBottleneck: (('bn1', 'act1', ''), ('bn2', 'act2', ''), ('bn3', 'act3', 'drop_block')),
    WideBasicBlock: (('bn1', 'act1', ''), ('bn2', 'act2', 'drop_block')),
}
_LAST: Dict[Type[nn.Module], Tuple[str, str]] = {IEBNBasicBlock: ('bn2', 'act2'), IEBNBottleneck: ('bn3', 'act3')}


def fusing_block(block: Type[nn.Module]) -> Type[nn.Module]:
    """The block class to build a network of that ``fuse_activations`` can fuse completely."""
    return _FUSING.get(block, block)


def fuse_activations(model: ResNet) -> None:
    """Make each IEBN norm of ``model`` compute the ReLU behind it; the ReLU's place is left to an identity.

    Where the shortcut's sum stands between the two, at the end of a block, the norm computes that too. Names of
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
            block.norm_adds_shortcut = _fuse(block, *_LAST[type(block)])
    if isinstance(model.conv1, nn.Sequential):
        names = list(model.conv1._modules)
        for norm, act in zip(names, names[1:], strict=False):
            _fuse(model.conv1, norm, act)


def _fuse(parent: nn.Module, norm: str, act: str) -> bool:
    children = parent._modules
    if type(children[norm]) is not IEBatchNorm2d or type(children[act]) is not nn.ReLU:
        return False
    children[norm] = IEBatchNormAct2d.from_norm(children[norm], children[act])
    children[act] = nn.Identity()
    return True
