"""Names of the tensors in the CIFAR code that checkpoints are published of, and the names here.

That code is the CIFAR framework github.com/bearpaw/pytorch-classification, which the paper's own grew from. Its ResNet
has the names here already; PreResNet, WRN and ResNeXt have names of their own.
"""
import re
from typing import Dict, Iterable, NamedTuple, Tuple

from iebn_zoo.util.errors import IEBNZooError

_WRAPPERS = re.compile(r'^(module\.|_orig_mod\.)+')  # of DataParallel and torch.compile


class _Layout(NamedTuple):
    marker: str  # a regular expression that some key of this layout matches, and none of ours
    renames: Tuple[Tuple[str, str], ...]  # regular expressions and their replacements, applied in this order


_LAYOUTS = (
    _Layout(r'^bn\.', ((r'^bn\.', 'norm.'),)),  # PreResNet: the norm before the pool
    _Layout(r'^block\d\.layer\.', (  # WRN
        (r'^bn1\.', 'norm.'),
        (r'^block(\d)\.layer\.', r'layer\1.'),
        (r'\.convShortcut\.', '.downsample.0.'),
    )),
    _Layout(r'^stage_\d\.', (  # ResNeXt
        (r'^conv_1_3x3\.', 'conv1.'),
        (r'^bn_1\.', 'bn1.'),
        (r'^classifier\.', 'fc.'),
        (r'\.conv_reduce\.', '.conv1.'),
        (r'\.bn_reduce\.', '.bn1.'),
        (r'\.conv_conv\.', '.conv2.'),
        (r'\.bn\.', '.bn2.'),
        (r'\.conv_expand\.', '.conv3.'),
        (r'\.bn_expand\.', '.bn3.'),
        (r'\.shortcut\.shortcut_conv\.', '.downsample.0.'),
        (r'\.shortcut\.shortcut_bn\.', '.downsample.1.'),
        (r'^stage_(\d)\.stage_\d_bottleneck_', r'layer\1.'),
    )),
)


def our_names(keys: Iterable[str]) -> Dict[str, str]:
    """Return the name of each tensor in our CIFAR models, by its name in the checkpoint.

    The function drops prefixes of wrappers and keeps names that no layout knows, such as those of our own state dicts.

    Args:
        keys: All keys of a state dict, because together they tell the layout.

    Raises:
        IEBNZooError: Two keys mean the same tensor.
    """
    bare = {key: _WRAPPERS.sub('', key) for key in keys}
    renames = [rename for layout in _LAYOUTS if any(re.search(layout.marker, key) for key in bare.values())
               for rename in layout.renames]
    names: Dict[str, str] = {}
    owners: Dict[str, str] = {}
    for key, name in bare.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        if name in owners:
            raise IEBNZooError(
                f'the checkpoint holds one tensor twice, as {owners[name]!r} and as {key!r}.\n'
                f'Expected the state dict of one network.')
        names[key], owners[name] = name, key
    return names
