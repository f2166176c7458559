"""The start of a network: from the same random state it computes what the network it is called after computes."""
import json

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

import iebn_zoo  # noqa: F401  registers the models
from iebn_zoo.layers import IEBatchNorm2d
from tests.support.layers import SIGMOID_INIT

SMALL = {'layers': (1, 2, 1), 'num_classes': 7}
CIFAR = {'resnet20': {}, 'preresnet164': {}, 'wrn16_8': {'channels': (16, 24, 32)},
         'resnext29_8x32d': {'channels': (16, 32, 64), 'stem_width': 8}}
IMAGENET = ['resnet18', 'resnet50', 'resnet26t', 'resnext50_32x4d', 'resnetblur18']
IMAGENET_SMALL = {'layers': (1, 2, 1, 1), 'channels': (16, 32, 64, 128), 'num_classes': 7}
FREE = [{}, {'freeze_gate_weight': True}]


def network(name, training=True, **kwargs):
    torch.manual_seed(3)
    # made in float64: a weight of 1/sigmoid(-1) that was rounded to float32 first is off by 1e-8
    return timm.create_model(name, dtype=torch.float64, **kwargs).train(training)


def same_function(a, b, size=16):
    x = torch.randn(3, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for _ in range(2):  # the second batch meets the statistics of the first
        torch.testing.assert_close(a(x), b(x), atol=1e-12, rtol=1e-12)
    for net in (a, b):
        net.eval()
    torch.testing.assert_close(a(x), b(x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize('net', CIFAR)
@pytest.mark.parametrize('kwargs', [*FREE, {'gate_downsample': True}, {'zero_init_last': True}, {'fuse_act': False}],
                         ids=str)
def test_cifar_start_bn_is_the_bn_network(net, kwargs):
    shared = {k: v for k, v in kwargs.items() if k == 'zero_init_last'}
    same_function(network(f'iebn_{net}_cifar', start='bn', **SMALL, **CIFAR[net], **kwargs),
                  network(f'bn_{net}_cifar', **SMALL, **CIFAR[net], **shared))


@pytest.mark.parametrize('net', IMAGENET)
@pytest.mark.parametrize('more', [{}, {'zero_init_last': True}, {'zero_init_last': False}], ids=str)
def test_imagenet_start_bn_is_timms_network(net, more):
    kwargs = dict(IMAGENET_SMALL, **more)
    same_function(network(f'iebn_{net}', start='bn', **kwargs), network(net, **kwargs), size=64)


@pytest.mark.parametrize('net', CIFAR)
def test_the_control_without_gates_is_the_papers_new_network(net):
    kwargs = dict(SMALL, **CIFAR[net])
    same_function(network(f'iebn_{net}_cifar', start='paper', **kwargs),
                  network(f'bn_{net}_cifar', norm_weight_init=SIGMOID_INIT, **kwargs))


def test_the_control_spares_the_shortcuts_and_zeros():
    model = timm.create_model('bn_resnet20_cifar', norm_weight_init=0.25, zero_init_last=True, **SMALL)
    weights = {name: m.weight.unique().tolist() for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, values in weights.items():
        assert values == [1.0 if 'downsample' in name else 0.0 if name.endswith('bn2') else 0.25], name


@pytest.mark.parametrize('start', ['paper', 'bn'])
@pytest.mark.parametrize('norm', ['bn', 'se'])
def test_a_recipe_with_a_start_leaves_networks_without_gates_as_they_are(norm, start):
    plain, other = (network(f'{norm}_resnet20_cifar', **SMALL, **kwargs) for kwargs in ({}, {'start': start}))
    torch.testing.assert_close(plain.state_dict(), other.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize('name, start', [('iebn_resnet20_cifar', 'bn'), ('iebn_resnet18', 'paper')])
def test_the_start_that_nobody_named(name, start):
    model = timm.create_model(name)
    (weight,) = {m.weight[0].item() for m in model.modules() if isinstance(m, IEBatchNorm2d)}
    assert model.start == start and weight == pytest.approx({'paper': 1, 'bn': 1 / SIGMOID_INIT}[start])


@pytest.mark.parametrize('start, asked, zero', [
    ('paper', None, False), ('paper', True, True), ('bn', None, True), ('bn', False, False)])
def test_with_the_papers_start_no_branch_begins_at_zero_unless_asked(start, asked, zero):
    more = {} if asked is None else {'zero_init_last': asked}
    model = timm.create_model('iebn_resnet50', start=start, **IMAGENET_SMALL, **more)
    lasts = [m.weight for name, m in model.named_modules() if name.endswith('.bn3')]
    assert len(lasts) == 5 and all((weight == 0).all() == zero for weight in lasts)


@pytest.mark.parametrize('name, kwargs', [
    ('iebn_resnet50', {'start': 'paper', **IMAGENET_SMALL}), ('iebn_resnet50', {'start': 'bn', **IMAGENET_SMALL}),
    ('iebn_resnet50', {'zero_init_last': True, **IMAGENET_SMALL}), ('iebn_resnet20_cifar', {}),
    ('bn_resnet20_cifar', {'zero_init_last': True}), ('iebn_resnet20_cifar', {'start': 'paper'})])
def test_new_random_weights_leave_the_start_of_the_norms(name, kwargs):
    model = timm.create_model(name, **kwargs)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.init_weights()
    same = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    assert same == {key for key, value in before.items() if value.dim() != 4}
    model.init_weights(zero_init_last=True)
    assert any((p == 0).all() for key, p in model.named_parameters() if key.endswith('.weight') and p.dim() == 1)


@pytest.mark.parametrize('name, kwargs, said', [
    ('iebn_resnet20_cifar', {'start': 'se'}, "start is 'se'"), ('iebn_resnet18', {'start': 'se'}, "start is 'se'"),
    ('bn_resnet20_cifar', {'start': 'gn'}, "start is 'gn'"),
    ('bn_resnet20_cifar', {'freeze_gate_weight': True}, 'freeze_gate_weight=True is for networks with gates'),
    ('se_resnet20_cifar', {'freeze_gate_weight': True}, 'freeze_gate_weight=True is for networks with gates'),
    ('iebn_resnet20_cifar', {'norm_weight_init': 0.5}, 'norm_weight_init=0.5 is for networks without gates; use start'),
])
def test_what_makes_no_sense_is_a_message(name, kwargs, said):
    with pytest.raises(ValueError, match=said):
        timm.create_model(name, **kwargs)


@pytest.mark.parametrize('name', ['iebn_resnet20_cifar', 'iebn_resnet18'])
def test_every_gated_layer_has_it_and_config_json_keeps_it(name, tmp_path):
    args = dict(start='bn', freeze_gate_weight=True)
    model = timm.create_model(name, **args)
    save_for_hf(model, str(tmp_path), model_args=args)
    assert json.loads((tmp_path / 'config.json').read_text())['model_args'].items() >= args.items()
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    for net in (model, loaded):
        gates = [m for m in net.modules() if isinstance(m, IEBatchNorm2d)]
        assert gates and all(m.start == 'bn' and not m.gate_weight.requires_grad for m in gates)
    assert loaded.start == 'bn'
    torch.testing.assert_close(loaded.state_dict(), model.state_dict())
    features = timm.create_model(name, features_only=True, start='bn')
    assert all(m.start == 'bn' for m in features.modules() if isinstance(m, IEBatchNorm2d))


def test_the_start_does_not_touch_weights_that_are_loaded(tmp_path):
    source = timm.create_model('iebn_resnet20_cifar', start='paper', **SMALL)
    save_for_hf(source, str(tmp_path), model_args={'layers': [1, 2, 1]})
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, start='bn')
    torch.testing.assert_close(loaded.state_dict(), source.state_dict())
