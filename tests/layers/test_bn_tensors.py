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
