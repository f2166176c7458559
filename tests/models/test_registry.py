"""Which names are registered, and what timm knows about them."""
import sys

import pytest
import timm
import timm.models.resnet as timm_resnet
from timm.models import get_pretrained_cfg
from torch import nn

import iebn_zoo
from iebn_zoo import IEBatchNorm2d
from tests.support.paths import ROOT

CIFAR_NETS = ('resnet20', 'resnet32', 'resnet44', 'resnet56', 'resnet110', 'resnet164', 'preresnet164', 'wrn16_8',
              'wrn28_10', 'wrn40_4', 'wrn52_4', 'resnext29_8x32d', 'resnext29_8x64d', 'resnext101_8x32d')
CIFAR = sorted(f'{norm}_{net}_cifar' for norm in ('iebn', 'bn', 'se') for net in CIFAR_NETS)
IMAGENET = sorted(set(timm.list_models('iebn_*')) - set(CIFAR))


def is_plain_bn(model):
    norms = [type(m) for m in model.modules() if 'Norm' in type(m).__name__]
    blocks = [m for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for m in stage]
    return set(norms) == {nn.BatchNorm2d} and all(
        type(b) in (timm_resnet.BasicBlock, timm_resnet.Bottleneck) and b.se is None for b in blocks)


def test_imagenet_family_is_every_plain_bn_model():
    # told from the built networks, not from the arguments of the entrypoints, as the package does it
    plain = [name for name in timm.list_models(module='resnet')
             if not name.startswith('test_') and is_plain_bn(timm.create_model(name, device='meta'))]
    assert IMAGENET == sorted(f'iebn_{name}' for name in plain)


def test_well_known_names():
    known = ('resnet10t', 'resnet18', 'resnet18d', 'resnet26', 'resnet26t', 'resnet34', 'resnet34d', 'resnet50',
             'resnet50c', 'resnet50d', 'resnet101', 'resnet101d', 'resnet152', 'resnet152d', 'resnet200', 'resnet200d',
             'resnetaa50', 'resnetaa50d', 'resnetblur50', 'resnext50_32x4d', 'resnext50d_32x4d', 'resnext101_32x4d',
             'resnext101_32x8d', 'resnext101_64x4d', 'wide_resnet50_2', 'wide_resnet101_2')
    assert {f'iebn_{name}' for name in known} <= set(IMAGENET)
    assert len(IMAGENET) >= 41
    foreign = ('seres', 'senet', 'ecares', 'resnetrs', '_gn', 'cbam', 'skres', 'pruned', 'test_')
    assert [name for name in IMAGENET if any(f in name for f in foreign)] == []


def test_cifar_family():
    assert sorted(timm.list_models('*_cifar')) == CIFAR
    assert len(CIFAR) == 42


def test_modules():
    assert sorted(timm.list_models(module='iebn_resnet')) == IMAGENET
    assert sorted(timm.list_models(module='iebn_cifar')) == CIFAR
    assert all(timm.is_model(name) for name in CIFAR + IMAGENET)
    for name in CIFAR + IMAGENET:
        module = sys.modules[timm.model_entrypoint(name).__module__]
        assert module.__name__.startswith('iebn_zoo.models.iebn_') and hasattr(module, name)
        assert timm.model_entrypoint(name).__name__ == name and timm.model_entrypoint(name).__doc__


def test_weights_of_the_cifar_family_are_in_the_package():
    carried = sorted(timm.list_pretrained('*_cifar*'))
    assert carried == sorted(path.parent.name for path in (ROOT / 'hub_cards').glob('*.*/model.safetensors'))
    assert {'iebn_resnet20_cifar.cifar100', 'bn_resnet20_cifar.cifar100'} <= set(carried)
    for name in set(CIFAR) - {name.split('.')[0] for name in carried}:
        cfg = get_pretrained_cfg(name)
        assert not cfg.has_weights and cfg.hf_hub_id is None and not cfg.url and cfg.file is None, name


@pytest.mark.parametrize('name', ['iebn_resnet32_cifar', 'bn_resnet32_cifar'])
def test_pretrained_is_refused(name):
    with pytest.raises(RuntimeError, match=f'No pretrained weights exist for {name}'):
        timm.create_model(name, pretrained=True)


@pytest.mark.parametrize('name', CIFAR)
def test_cifar_cfg(name):
    cfg = timm.create_model(name, device='meta').default_cfg
    assert cfg['input_size'] == (3, 32, 32) and cfg['pool_size'] == (8, 8)
    assert cfg['mean'] == (0.5071, 0.4865, 0.4409) and cfg['std'] == (0.2673, 0.2564, 0.2762)
    assert cfg['crop_pct'] == 1.0 and cfg['num_classes'] == 100 and cfg['architecture'] == name
    assert (cfg['first_conv'], cfg['classifier']) == ('conv1', 'fc')


@pytest.mark.parametrize('name', IMAGENET)
def test_imagenet_cfg_and_network(name):
    model = timm.create_model(name, device='meta')
    base = get_pretrained_cfg(name.removeprefix('iebn_')).to_dict()
    for key in ('input_size', 'mean', 'std', 'interpolation', 'first_conv', 'classifier', 'pool_size'):
        assert model.default_cfg[key] == base[key], key
    assert model.default_cfg['architecture'] == name and model.num_classes == 1000
    modules = dict(model.named_modules())
    for key in (model.default_cfg['first_conv'], model.default_cfg['classifier']):
        assert hasattr(modules[key], 'weight'), key
    assert isinstance(model, iebn_zoo.models.IEBNResNet) and isinstance(model, timm_resnet.ResNet)
    assert any(isinstance(m, IEBatchNorm2d) for m in model.modules())


@pytest.mark.parametrize('kwargs', [{'norm_layer': nn.BatchNorm2d}, {'norm_layer': 'groupnorm'}], ids=str)
@pytest.mark.parametrize('name', ['iebn_resnet18', 'iebn_resnet20_cifar', 'se_resnet20_cifar'])
def test_the_norm_in_the_name_is_kept(name, kwargs):
    with pytest.raises(ValueError, match='norm_layer'):
        timm.create_model(name, **kwargs)
