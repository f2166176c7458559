"""How many parameters there are, which norms are gated, and that the names are timm's."""
import re

import pytest
import timm
from torch import nn

from iebn_zoo import IEBatchNorm2d
from tests.models.test_registry import CIFAR_NETS, IMAGENET

# 100 classes, plain norms in the shortcuts: (BN, IEBN), from the structure of the reference code
TABLE = {
    'resnet20': (278_324, 279_700), 'resnet164': (1_727_284, 1_751_508), 'preresnet164': (1_726_388, 1_750_612),
    'wrn52_4': (12_072_500, 12_086_868), 'wrn28_10': (36_536_884, 36_554_836),
    'resnext101_8x32d': (32_138_244, 32_236_868), 'resnext29_8x32d': (8_670_212, 8_697_156),
    'resnext29_8x64d': (34_518_948, 34_572_836)}


def count(model):
    return sum(p.numel() for p in model.parameters())


def channels(model, norm):
    return sum(m.num_features for m in model.modules() if isinstance(m, norm))


def create(name, **kwargs):
    return timm.create_model(name, device='meta', **kwargs)


def without_gates(keys):
    """Names in the BN network of the tensors of an IEBN network."""
    keys = set(keys)
    gated = {k.removesuffix('gate_weight') for k in keys if k.endswith('gate_weight')}
    return sorted(next((p + k.removeprefix(f'{p}bn.') for p in gated if k.startswith(f'{p}bn.')), k)
                  for k in keys if not k.endswith(('gate_weight', 'gate_bias')))


@pytest.mark.parametrize('net', TABLE)
def test_table(net):
    assert (count(create(f'bn_{net}_cifar')), count(create(f'iebn_{net}_cifar'))) == TABLE[net]


def test_resnext29_8x64d_is_that_of_its_paper():
    assert 34.35 < count(create('bn_resnext29_8x64d_cifar', num_classes=10)) / 1e6 < 34.45  # 34.4 M in its table 7
    group_width = {net: create(f'bn_{net}_cifar').layer1[0].conv2.weight.shape[1] for net in (
        'resnext29_8x32d', 'resnext29_8x64d', 'resnext101_8x32d')}
    assert all(f'8x{width}d' in net for net, width in group_width.items())


def test_squeeze_and_excitation_count():
    assert round(count(create('se_resnet164_cifar')) / 1e6, 2) == 1.93  # as published


@pytest.mark.parametrize('net', CIFAR_NETS)
def test_cifar_structure(net):
    bn, iebn, se = (create(f'{norm}_{net}_cifar') for norm in ('bn', 'iebn', 'se'))
    convs = [n for n, m in iebn.named_modules() if isinstance(m, nn.Conv2d)]
    # WRN's depth counts the convolutions, the others' the layers of the longest path, with the classifier
    depth = len(convs) if 'wrn' in net else 1 + sum('downsample' not in n for n in convs)
    assert depth == int(re.search(r'\d+', net).group())
    assert count(iebn) - count(bn) == 2 * channels(iebn, IEBatchNorm2d)
    assert without_gates(iebn.state_dict()) == sorted(bn.state_dict())
    assert {k for k in se.state_dict() if '.se.' not in k} == set(bn.state_dict())
    shortcuts = [m for n, m in iebn.named_modules() if '.downsample.' in n and not isinstance(m, nn.Conv2d)]
    if 'pre' in net or 'wrn' in net:
        assert shortcuts == [] and isinstance(iebn.norm, IEBatchNorm2d)
        assert channels(iebn, nn.BatchNorm2d) == channels(iebn, IEBatchNorm2d)  # the children only
    else:
        assert len(shortcuts) in (2, 3) and all(type(m) is nn.BatchNorm2d for m in shortcuts)
        gated = create(f'iebn_{net}_cifar', gate_downsample=True)
        added = sum(m.num_features for m in shortcuts)
        assert count(gated) - count(iebn) == 2 * added
        assert channels(gated, IEBatchNorm2d) == channels(gated, nn.BatchNorm2d)


@pytest.mark.parametrize('name', IMAGENET)
def test_two_numbers_a_gated_channel(name):
    base, model = create(name.removeprefix('iebn_')), create(name)
    norms = {n: m.num_features for n, m in base.named_modules() if isinstance(m, nn.BatchNorm2d)}
    every, gated = sum(norms.values()), sum(c for n, c in norms.items() if 'downsample' not in n)
    assert every > gated or 'downsample' not in ''.join(base.state_dict())
    assert count(model) - count(base) == 2 * gated
    assert count(create(name, gate_downsample=True)) - count(base) == 2 * every
    assert without_gates(model.state_dict()) == sorted(base.state_dict())
    # the same shapes: a BN checkpoint fits after renaming
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    assert all(shapes[k] == v.shape for k, v in base.state_dict().items() if k in shapes)
    assert not any(isinstance(m, IEBatchNorm2d) for n, m in model.named_modules() if 'downsample' in n)
