"""The way back: exact where the gates are constant, refused where they are not."""
import copy

import pytest
import timm
import timm.layers
import torch
from torch import nn

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d, convert_bn_to_iebn, convert_iebn_to_bn
from iebn_zoo.util.errors import UsageError
from tests.support.conversion.networks import NETWORKS, relative_error
from tests.support.layers import randomized


def constant_gates(module, seed=0):
    """Random values everywhere, each gate the same for every instance, but not for every channel."""
    randomized(module, seed)
    for layer in module.modules():
        if isinstance(layer, IEBatchNorm2d):
            nn.init.zeros_(layer.gate_weight)
    return module


def layers():
    return nn.Sequential(nn.Conv2d(3, 6, 3), constant_gates(IEBatchNorm2d(6)), constant_gates(IEBatchNormAct2d(6)))


@pytest.mark.parametrize('network', NETWORKS, ids=lambda network: network.name)
def test_round_trip(network):
    model = network.create(torch.float32)
    before = copy.deepcopy(model.state_dict())
    architecture = getattr(model, 'pretrained_cfg', {}).get('architecture')
    converted, _ = convert_bn_to_iebn(model, gate_shortcuts=True)
    back, report = convert_iebn_to_bn(converted)
    assert back is model and len(report.converted) == network.gated + network.shortcuts
    after = back.state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=2e-7, atol=0, msg=lambda m, key=key: f'{key}: {m}')
    assert getattr(back, 'pretrained_cfg', {}).get('architecture') == architecture


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
@pytest.mark.parametrize('name, base', [
    ('iebn_resnet18', 'resnet18'), ('iebn_resnet26t', 'resnet26t'), ('iebn_resnet20_cifar', 'bn_resnet20_cifar'),
    ('iebn_preresnet164_cifar', 'bn_preresnet164_cifar'), ('iebn_wrn16_8_cifar', 'bn_wrn16_8_cifar')])
@pytest.mark.parametrize('fuse_act', [True, False])
def test_registered_models_become_timm_models(name, base, fuse_act, training):
    kwargs = dict(num_classes=5, channels=(16, 32, 48, 64), layers=(1, 1, 1, 1))
    if 'cifar' in name:
        kwargs = dict(num_classes=5, channels=(16, 24, 32), layers=(1, 2, 1))
    torch.manual_seed(0)
    model = constant_gates(timm.create_model(name, fuse_act=fuse_act, **kwargs).double()).train(training)
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = copy.deepcopy(model)(x)
    converted, report = convert_iebn_to_bn(model)
    assert all(layer.after == 'BatchNorm2d' for layer in report.layers) and converted.training == training
    plain = timm.create_model(base, **kwargs).double().train(training)
    plain.load_state_dict(converted.state_dict())
    assert converted.pretrained_cfg['architecture'] == base
    with torch.no_grad():
        for network in (converted, plain):
            assert relative_error(network(x), expected) <= 1e-10


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
def test_layers(training):
    model = layers().train(training)
    model[2].act = nn.GELU()
    x = torch.randn(4, 3, 8, 8)
    expected = copy.deepcopy(model)(x)
    converted, report = convert_iebn_to_bn(model)
    assert [layer.after for layer in report.layers] == ['BatchNorm2d', 'BatchNormAct2d']
    assert isinstance(converted[2].act, nn.GELU)
    torch.testing.assert_close(converted(x), expected, rtol=1e-5, atol=1e-6)
    low, high = (float(f(torch.sigmoid(layers()[1].gate_bias.detach()))) for f in (torch.min, torch.max))
    assert report.layers[0].note == f'gates {low:.4f} to {high:.4f}'


@pytest.mark.parametrize('affine', [True, False])
def test_a_default_device_changes_nothing(affine):
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=affine), nn.BatchNorm2d(6))
    expected = copy.deepcopy(model.state_dict())
    with torch.device('meta'):
        model, _ = convert_bn_to_iebn(model)
        model, _ = convert_iebn_to_bn(model)
    for key, value in expected.items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=2e-7, atol=0)


@pytest.mark.parametrize('kind', [IEBatchNorm2d, IEBatchNormAct2d])
def test_the_root_is_a_layer(kind):
    norm, report = convert_iebn_to_bn(constant_gates(kind(6)))
    assert isinstance(norm, nn.BatchNorm2d) and report.layers[0].label == '(root)'


def test_a_thawed_child_is_merged_too():
    model = timm.layers.unfreeze_batch_norm_2d(timm.layers.freeze_batch_norm_2d(layers())).eval()
    with torch.no_grad():
        model[1].bn.weight.copy_(torch.rand(6) + 0.5)
        model[1].bn.bias.copy_(torch.rand(6))
    x = torch.randn(4, 3, 8, 8)
    expected = copy.deepcopy(model)(x)
    torch.testing.assert_close(convert_iebn_to_bn(model)[0](x), expected, rtol=1e-5, atol=1e-5)


def test_gates_that_depend_on_their_input_are_refused():
    model = timm.create_model('iebn_resnet20_cifar', layers=(1, 1, 1))
    with torch.no_grad():
        model.layer1[0].bn1.gate_weight[2] = -0.25
        model.layer2[0].bn2.gate_weight[1] = float('nan')
        model.layer3[0].bn1.gate_weight[0] = 0.5
    before = list(model.modules())
    with pytest.raises(UsageError, match=(
            r'3 of 7 IEBN layers.*: layer2.0.bn2 \(nan\), layer3.0.bn1 \(0.5\), layer1.0.bn1 \(0.25\)\.\n'
            r'.*iebn_zoo.fold_gates')):
        convert_iebn_to_bn(model)
    assert list(model.modules()) == before


def test_a_long_list_is_cut():
    model = timm.create_model('iebn_resnet20_cifar')
    for layer in model.modules():
        if isinstance(layer, IEBatchNorm2d):
            nn.init.ones_(layer.gate_weight)
    with pytest.raises(UsageError) as error:
        convert_iebn_to_bn(model)
    assert str(error.value).count('(1)') == 4 and 'layer1.1.bn1 (1) and 15 more.\n' in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


class OwnLayer(IEBatchNorm2d):
    pass


def hooked():
    layer = IEBatchNorm2d(6)
    layer.register_forward_hook(lambda *args: None)
    return layer


def hooked_child():
    layer = IEBatchNorm2d(6)
    layer.bn.register_forward_pre_hook(lambda *args: None)
    return layer


def hooked_weight():
    layer = IEBatchNorm2d(6)
    layer.weight.register_hook(lambda grad: None)
    return layer


def untracked():
    layer = IEBatchNorm2d(6)
    layer.bn.track_running_stats = False
    return layer


REFUSED = {
    'sync': (lambda: nn.SyncBatchNorm.convert_sync_batchnorm(IEBatchNorm2d(6)), 'statistics in a SyncBatchNorm'),
    'frozen': (lambda: timm.layers.freeze_batch_norm_2d(IEBatchNorm2d(6)), 'statistics in a FrozenBatchNorm2d'),
    'split': (lambda: timm.layers.convert_splitbn_model(IEBatchNorm2d(6)), 'statistics in a SplitBatchNorm2d'),
    'subclass': (lambda: OwnLayer(6), 'is a subclass'),
    'hook': (hooked, 'has forward_hooks'),
    'hook_of_weight': (hooked_weight, 'has a hook on its weight: remove it first'),
    'hook_of_child': (hooked_child, 'has forward_pre_hooks'),
    'untracked': (untracked, 'has track_running_stats=False'),
    'meta': (lambda: IEBatchNorm2d(6, device='meta'), 'is on the meta device'),
}


@pytest.mark.parametrize('build, reason', REFUSED.values(), ids=REFUSED)
def test_layers_that_are_refused(build, reason):
    model = nn.Sequential(IEBatchNorm2d(3), build())
    with pytest.raises(UsageError, match=f'^1 .*cannot become a BatchNorm2d: it .*{reason}'):
        convert_iebn_to_bn(model)
    assert type(model[0]) is IEBatchNorm2d


def test_without_iebn_layers():
    with pytest.raises(UsageError, match='this Sequential has no IEBN layer'):
        convert_iebn_to_bn(nn.Sequential(nn.BatchNorm2d(3)))
