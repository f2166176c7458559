"""Which norms stand in a residual shortcut: the reference network leaves those plain."""
import re

from iebn_zoo._compat import children_of
from iebn_zoo.conversion.walk import Path

# what timm, torchvision and the usual CIFAR code call the branch around a residual block
_SHORTCUT = re.compile(
    r'(conv|bn|norm|identity)?_?(downsample|shortcut|skip|identity)_?(conv|bn|norm|connection|layer)?'
    r'|c1x1_w_s\d|\w+_rpr_skip', re.IGNORECASE)  # timm's DPN, GhostNetV3
# a name too general to tell by itself, and the sibling that makes it a shortcut: torchvision's RegNet, timm's DLA
_SHORTCUT_BESIDE = {'proj': 'f', 'project': 'tree1'}
# children of a stage, whose `downsample` is on the main path: EfficientFormer, HGNet, RepViT and others
_STAGE = ('blocks', 'layers')


def in_shortcut(path: Path) -> bool:
    """Whether a module lies in a shortcut, judged by the names on its path and by their siblings.

    ``downsample`` of timm's and torchvision's ResNets and RegNets, ``shortcut``, ``skip``, and ``identity`` of RepVGG
    and MobileOne, ``c1x1_w_s1`` of DPN and ``dw_rpr_skip`` of GhostNetV3, but not the ``downsample`` of a whole stage.
    """
    for owner, name in path:
        siblings = children_of(owner)
        if _SHORTCUT.fullmatch(name) and not any(stage in siblings for stage in _STAGE):
            return True
        if _SHORTCUT_BESIDE.get(name) in siblings:
            return True
    return False
