"""The variants are what their names say."""
import pytest
import torch
from timm.layers import EcaModule, SEModule
from torch import nn

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.studies.benchmark.plan import DEFAULT_MODELS
from iebn_zoo.studies.benchmark.variants import (
    LAYERS,
    MODELS,
    NaiveIEBatchNorm2d,
    base_names,
    baseline,
    make_model,
    with_baselines,
)
from tests.support.layers import randomized

ATTENTION = {'se': SEModule, 'eca': EcaModule}


def count(model, kind):
    return sum(type(m) is kind for m in model.modules())


@pytest.mark.parametrize('name', ['resnet18', 'resnet20_cifar'])
@pytest.mark.parametrize('variant', MODELS)
def test_model(variant, name):
    model = make_model(variant, name)
    plain = make_model('bn', name)
    blocks = sum(hasattr(m, 'conv2') for m in plain.modules())
    assert blocks in (8, 9)
    for attention, kind in ATTENTION.items():
        assert count(model, kind) == (blocks if variant == attention else 0)
    ours, naive = count(model, IEBatchNorm2d) + count(model, IEBatchNormAct2d), count(model, NaiveIEBatchNorm2d)
    gated = 2 * blocks + 1
    assert (ours, naive) == {'iebn': (gated, 0), 'naive': (0, gated)}.get(variant, (0, 0))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, model.num_classes)


@pytest.mark.parametrize('name', ['resnet18', 'resnet20_cifar'])
def test_folded_model_is_the_bn_network_with_other_weights(name):
    folded, plain = (make_model(v, name) for v in ('folded', 'bn'))
    assert [*folded.state_dict()] == [*plain.state_dict()]
    assert [type(m) for m in folded.modules() if not list(m.children())] == [
        type(m) for m in plain.modules() if not list(m.children())]
    assert not torch.equal(folded.bn1.weight, plain.bn1.weight)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_naive_model_computes_the_same(training):
    ours, naive = (make_model(v, 'resnet20_cifar').train(training) for v in ('iebn', 'naive'))
    naive.load_state_dict(randomized(ours).state_dict())
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for model in (ours, naive):
        model.double()(x.double()).square().mean().backward()
    for (name, p), q in zip(ours.named_parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-8, rtol=1e-6, msg=name)
    for (name, value), other in zip(ours.state_dict().items(), naive.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, msg=name)


def test_layers():
    x = torch.randn(4, 16, 5, 5)
    y = {variant: make(16)(x) for variant, make in LAYERS.items()}
    torch.testing.assert_close(y['naive'], y['iebn'])
    torch.testing.assert_close(y['bn_relu'], y['bn'].relu())
    torch.testing.assert_close(y['iebn_relu'], y['iebn'].relu())
    for variant in ATTENTION:
        scale = (y[variant] / y['bn']).mean((2, 3), keepdim=True)  # one factor for an instance and channel
        assert (scale > 0).all() and (scale < 1).all()
        torch.testing.assert_close(y[variant], y['bn'] * scale, atol=1e-4, rtol=1e-4)
    assert any(isinstance(m, nn.ReLU) and m.inplace for m in LAYERS['bn_relu'](4).modules())


def test_baselines():
    assert with_baselines(['iebn']) == ['bn', 'iebn']
    assert with_baselines(['iebn_relu']) == ['bn_relu', 'iebn_relu']
    assert with_baselines(LAYERS) == list(LAYERS)
    assert all(baseline(baseline(v)) == baseline(v) for v in LAYERS)


def test_base_names():
    names = base_names()
    assert set(DEFAULT_MODELS) <= set(names) and not any(n.startswith(('bn_', 'iebn_')) for n in names)
