"""The tensors of a BatchNorm are not loaded into an IEBN layer as they are, in whatever network it stands."""
import copy

import pytest
import timm
import torch
from torch import nn

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d, convert_bn_to_iebn
from iebn_zoo.util.errors import UsageError
from tests.support.models.cases import randomize

SMALL = dict(layers=(1, 1, 1, 1), channels=(8, 8, 16, 16))


def features(name, **kwargs):
    return randomize(timm.create_model(name, features_only=True, **SMALL, **kwargs)).eval()


def converted():
    return convert_bn_to_iebn(timm.create_model('resnet18', num_classes=3, **SMALL))[0]


NETWORKS = {
    'features': (lambda: features('iebn_resnet18'), 'bn1'),
    'converted': (converted, 'bn1'),
    'in_a_wrapper': (lambda: nn.Sequential(converted()), '0.bn1'),
}


@pytest.mark.parametrize('build, name', NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize('strict', [True, False])
def test_networks(build, name, strict):
    bn = timm.create_model('resnet18', num_classes=3, **SMALL)
    with pytest.raises(UsageError, match=f'layer {name}: there is {name}.running_mean, and no') as e:
        build().load_state_dict((nn.Sequential(bn) if name[0] == '0' else bn).state_dict(), strict=strict)
    assert len(str(e.value).splitlines()) == 3 and 'convert_bn_to_iebn' in str(e.value)


@pytest.mark.parametrize('kind', [IEBatchNorm2d, IEBatchNormAct2d])
def test_layers(kind):
    layer = kind(6)
    with pytest.raises(ValueError, match='the IEBN layer at the root'):
        layer.load_state_dict(nn.BatchNorm2d(6).state_dict(), strict=False)
    state = randomize(kind(6)).state_dict()
    for copied in (layer, copy.deepcopy(layer), nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(layer))):
        copied.load_state_dict(state)
        assert torch.equal(copied.bn.running_mean, state['bn.running_mean'])
    scripted = torch.jit.script(layer)
    scripted.load_state_dict(state)
    assert torch.equal(scripted.bn.running_mean, state['bn.running_mean'])


def add_gates(module, state_dict, prefix, *args):
    """A hook of somebody who converts the tensors of a BatchNorm while they are loaded."""
    for name, layer in module.named_modules():
        if isinstance(layer, IEBatchNorm2d):
            key = f'{prefix}{name}.' if name else prefix
            for statistic in ('running_mean', 'running_var', 'num_batches_tracked'):
                if f'{key}{statistic}' in state_dict:
                    state_dict[f'{key}bn.{statistic}'] = state_dict.pop(f'{key}{statistic}')
            state_dict.update({f'{key}gate_weight': torch.zeros(layer.num_features),
                               f'{key}gate_bias': torch.full((layer.num_features,), 40.0)})


@pytest.mark.parametrize('build', [lambda: IEBatchNorm2d(6), lambda: features('iebn_resnet18'), converted])
def test_a_hook_may_convert_them_first(build):
    network = build()
    bn = nn.BatchNorm2d(6) if isinstance(network, IEBatchNorm2d) else timm.create_model(
        'resnet18', num_classes=3, **SMALL)
    state = randomize(bn).eval().state_dict()
    network.register_load_state_dict_pre_hook(lambda *args: None)
    with pytest.raises(UsageError, match='convert'):  # a hook that changes nothing
        network.load_state_dict(state, strict=False)
    network.register_load_state_dict_pre_hook(add_gates)
    network.load_state_dict(state, strict=False)
    layer, norm = (network, bn) if isinstance(network, IEBatchNorm2d) else (network.bn1, bn.bn1)
    assert torch.equal(layer.bn.running_mean, norm.running_mean) and torch.equal(layer.weight, norm.weight)


def test_hooks_of_the_layers_may_convert_them_too():
    network, bn = features('iebn_resnet18'), randomize(timm.create_model('resnet18', num_classes=3, **SMALL))
    layers = [layer for layer in network.modules() if isinstance(layer, IEBatchNorm2d)]
    for layer in layers:
        layer.register_load_state_dict_pre_hook(add_gates)
    network.load_state_dict(bn.state_dict(), strict=False)
    assert torch.equal(network.layer2[0].bn1.bn.running_var, bn.layer2[0].bn1.running_var)
    layers[-1]._load_state_dict_pre_hooks.clear()
    with pytest.raises(UsageError, match='cannot load the tensors of a BatchNorm'):
        network.load_state_dict(bn.state_dict(), strict=False)


def test_what_the_message_says_works(tmp_path):
    bn = randomize(timm.create_model('resnet18', num_classes=3, **SMALL)).eval()
    torch.save(bn.state_dict(), tmp_path / 'bn.pth')
    plain = features('resnet18')
    plain.load_state_dict(bn.state_dict(), strict=False)
    x = torch.randn(2, 3, 32, 32)
    loaded = timm.create_model('iebn_resnet18', features_only=True, pretrained=True, **SMALL,
                               pretrained_cfg_overlay=dict(file=str(tmp_path / 'bn.pth'), num_classes=3)).eval()
    for network in (loaded, convert_bn_to_iebn(copy.deepcopy(plain))[0]):
        for y, expected in zip(network(x), plain(x), strict=True):
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
