"""Checkpoints of the CIFAR framework, in all its layouts, with BN or the paper's norm, load and compute the same."""
import pytest
import timm
import torch
from torch import nn

from iebn_zoo.models import convert_reference_state_dict, load_reference_checkpoint
from iebn_zoo.util.errors import IEBNZooError
from tests.support.models import foreign_networks
from tests.support.models.foreign_networks import CLASSES, LAYERS, ReferenceNorm

# their network, ours, and the arguments that make ours as small
NETS = {
    'resnet': ('resnet20', {}),
    'resnet_bottleneck': ('resnet164', {}),
    'preresnet': ('preresnet164', {}),
    'wrn': ('wrn16_8', {'channels': (32, 48, 64)}),
    'resnext': ('resnext29_8x32d', {'channels': (8, 16, 32), 'stem_width': 8}),
}
# their norm, and ours
NORMS = {'bn_to_bn': (nn.BatchNorm2d, 'bn'), 'bn_to_iebn': (nn.BatchNorm2d, 'iebn'),
         'reference_to_iebn': (ReferenceNorm, 'iebn')}
nets = pytest.mark.parametrize('net', NETS)
norms = pytest.mark.parametrize('norm', NORMS)


def theirs(net, norm='bn_to_iebn'):
    torch.manual_seed(0)
    model = getattr(foreign_networks, net)(NORMS[norm][0]).double().eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and value.dim() == 1:
                scale = name.endswith(('var', 'weight'))
                value.copy_(torch.rand_like(value) + 0.5 if scale else torch.randn_like(value))
    return model


def state_of(model):
    return {f'module.{key}': value for key, value in model.state_dict().items()}


def ours(net, norm='bn_to_iebn', **kwargs):
    name, sizes = NETS[net]
    torch.manual_seed(1)
    return timm.create_model(
        f'{NORMS[norm][1]}_{name}_cifar', **{'num_classes': CLASSES, 'layers': LAYERS, **sizes, **kwargs}).eval()


def images(dtype=torch.float64):
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


@torch.no_grad()
def assert_same(model, reference, tolerance=1e-12):
    dtype = next(model.parameters()).dtype
    expected = reference(images())
    assert expected.std() > 1e-3  # says something
    torch.testing.assert_close(model(images(dtype)).double(), expected, rtol=tolerance, atol=tolerance)


@nets
@norms
def test_same_logits(net, norm, tmp_path):
    reference = theirs(net, norm)
    torch.save({'epoch': 164, 'state_dict': state_of(reference), 'acc': 70., 'best_acc': 71.,
                'optimizer': {'state': {}, 'param_groups': []}}, tmp_path / 'model_best.pth.tar')
    path = tmp_path / 'model_best.pth.tar'
    assert_same(load_reference_checkpoint(ours(net, norm).double(), path), reference)
    assert_same(load_reference_checkpoint(ours(net, norm), path), reference, 1e-5)


@nets
@norms
def test_same_logits_through_timm(net, norm, tmp_path):
    reference = theirs(net, norm).float()
    torch.save({'state_dict': state_of(reference)}, tmp_path / 'x.pth.tar')
    overlay = dict(file=str(tmp_path / 'x.pth.tar'), num_classes=CLASSES)
    model = ours(net, norm, pretrained=True, pretrained_cfg_overlay=overlay)
    assert_same(model, reference.double(), 1e-5)


@nets
def test_names_and_shapes(net):
    state = state_of(theirs(net, 'reference_to_iebn'))
    before = dict(state)
    converted = convert_reference_state_dict(state)
    shapes = {key: value.shape for key, value in ours(net).state_dict().items()}
    assert {key: value.shape for key, value in converted.items()} == shapes
    assert list(state) == list(before) and all(state[key] is before[key] for key in before)


@pytest.mark.parametrize('name', ['iebn_wrn16_8_cifar', 'bn_preresnet164_cifar', 'se_resnet20_cifar'])
def test_our_own_state_dict_passes_unchanged(name):
    state = timm.create_model(name, layers=LAYERS).state_dict()
    converted = convert_reference_state_dict(state)
    assert list(converted) == list(state) and all(converted[key] is state[key] for key in state)


@pytest.mark.parametrize('norm', ['bn_to_bn', 'bn_to_iebn'])
def test_checkpoint_without_batch_counts(norm):
    # as torch wrote them before 0.4.1, the release of the framework's own checkpoints
    reference = theirs('wrn', norm)
    state = {key: value for key, value in state_of(reference).items() if not key.endswith('num_batches_tracked')}
    assert_same(load_reference_checkpoint(ours('wrn', norm).double(), state), reference)


@nets
@norms
def test_load_state_dict_refuses(net, norm):
    state, model = state_of(theirs(net, norm).float()), ours(net, norm)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for keys in (state, {key.removeprefix('module.'): value for key, value in state.items()}):
        if keys.keys() == before.keys():
            continue  # the framework's BN ResNet has our names: nothing to refuse
        for strict in (True, False):
            with pytest.raises(ValueError, match='load_reference_checkpoint') as e:
                model.load_state_dict(keys, strict=strict)
            assert len(str(e.value).splitlines()) == 3
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@nets
@pytest.mark.parametrize('norm', ['bn_to_iebn', 'reference_to_iebn'])
def test_checkpoint_path_refuses(net, norm, tmp_path):
    torch.save({'state_dict': state_of(theirs(net, norm))}, tmp_path / 'x.pth.tar')
    with pytest.raises(ValueError, match='load_reference_checkpoint'):
        ours(net, norm, checkpoint_path=str(tmp_path / 'x.pth.tar'))


@pytest.mark.parametrize('strict', [True, False])
def test_bn_state_dict_of_our_own_names(strict):
    bn, iebn = ours('resnet', 'bn_to_bn').double(), ours('resnet').double()
    iebn.load_state_dict(ours('resnet').state_dict())
    with pytest.raises(ValueError, match=r'it has bn1\.running_mean') as e:
        iebn.load_state_dict(bn.state_dict(), strict=strict)
    assert 'load_reference_checkpoint' in str(e.value) and 'iebn_resnet20_cifar' in str(e.value)
    with pytest.raises(ValueError, match=r'it has 0\.bn1\.running_mean'):
        nn.Sequential(iebn).load_state_dict(nn.Sequential(bn).state_dict(), strict=strict)
    assert_same(load_reference_checkpoint(iebn, bn.state_dict()), bn)


def refuse(model, state, *words):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(IEBNZooError) as e:
        load_reference_checkpoint(model, state)
    assert len(str(e.value).splitlines()) <= 3
    assert all(word in str(e.value) for word in words), str(e.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize('net, sizes, words', [
    ('wrn', {'layers': (1, 3, 1)}, ('lacks', 'layer2.2.bn1.weight')),
    ('wrn', {'layers': (1, 1, 1)}, ('has an unknown', 'layer2.1.bn1')),
    ('wrn', {'channels': (32, 48, 80)}, ("'layer3.0.conv1.weight' as (64, 48, 3, 3), not (80,", 'of another shape')),
    ('resnext', {'channels': (16, 32, 64), 'stem_width': 8}, ('layer1.0.conv1.weight', 'of another shape')),
    ('resnext', {'num_classes': 10}, ("'fc.weight' as (7, 128), not (10, 128)", '2 of another shape')),
    ('preresnet', {'in_chans': 1}, ("'conv1.weight' as (16, 3, 3, 3), not (16, 1, 3, 3)",)),
    ('resnet', {'gate_downsample': True, 'layers': (1, 1, 1)}, ('has an unknown', 'layer2.1')),
], ids=str)
def test_wrong_size_is_named(net, sizes, words):
    refuse(ours(net, **sizes), state_of(theirs(net)), *words)


def test_other_network_is_refused():
    refuse(ours('resnet'), state_of(theirs('wrn')), 'CifarResNet')
    refuse(ours('preresnet'), state_of(theirs('resnet_bottleneck')), 'CifarResNet')


def test_gates_for_a_model_without():
    refuse(ours('wrn', 'bn_to_bn'), state_of(theirs('wrn', 'reference_to_iebn')), 'create the iebn_ model')
    with pytest.raises(ValueError, match='Use the IEBN model'):  # num_classes differs: timm itself would not be strict
        ours('wrn', 'bn_to_bn', pretrained=True, num_classes=3, pretrained_cfg_overlay=dict(
            state_dict=state_of(theirs('wrn', 'reference_to_iebn'))))


def test_mixed_norms_are_named():
    bn, gated = state_of(theirs('wrn')), state_of(theirs('wrn', 'reference_to_iebn'))
    key = 'module.block2.layer.1.bn2.'
    mixed = {**{k: v for k, v in gated.items() if not k.startswith(key)},
             **{k: v for k, v in bn.items() if k.startswith(key)}}
    refuse(ours('wrn'), mixed, "lacks 'layer2.1.bn2.gate_weight'", 'Norms of it have no gates')
    with pytest.raises(ValueError, match=r'1 have none \(layer2\.1\.bn2\)'):
        ours('wrn', pretrained=True, pretrained_cfg_overlay=dict(state_dict=mixed))


def test_one_tensor_under_two_names():
    state = state_of(theirs('wrn'))
    state['layer1.0.conv1.weight'] = state['module.block1.layer.0.conv1.weight']
    refuse(ours('wrn'), state, 'block1.layer.0.conv1.weight', "'layer1.0.conv1.weight'")


@pytest.mark.parametrize('norm', NORMS)
def test_deeper_network_is_not_cut_silently(norm):
    with pytest.raises(ValueError, match=r'norms that it does not have \(layer2\.1\.bn1'):
        # num_classes differs: timm itself would drop what is left over and say nothing
        ours('wrn', norm, pretrained=True, layers=(1, 1, 1), num_classes=3, pretrained_cfg_overlay=dict(
            state_dict=state_of(theirs('wrn', norm))))
