"""The constant noise attack against the paper's formula in float64, written out here on its own."""
import copy
import pickle

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.studies.noise import add_norm_noise
from iebn_zoo.util.errors import UsageError
from tests.support.layers import randomized

NA, NB = 0.7, 0.4
KINDS = {'bn': nn.BatchNorm2d, 'bn_act': BatchNormAct2d, 'iebn': IEBatchNorm2d, 'iebn_act': IEBatchNormAct2d}
VARIANTS = {'usual': {}, 'not_affine': dict(affine=False), 'cumulative': dict(momentum=None),
            'untracked': dict(track_running_stats=False)}
kinds = pytest.mark.parametrize('kind', KINDS)


def oracle(layer, x, noisy, by_batch, residual=None):
    """One line a line of the formula; the layer gives its parameters only."""
    gated = isinstance(layer, IEBatchNorm2d)
    bn = layer.bn if gated else layer
    c = (None, slice(None), None, None)
    mu, var = (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)) if by_batch else (bn.running_mean, bn.running_var)
    x_hat = (x - mu[c]) / (var[c] + bn.eps).sqrt()
    if noisy:
        x_hat = NA * x_hat + NB
    if gated:
        x_hat = x_hat * torch.sigmoid(layer.gate_weight * x.mean((2, 3)) + layer.gate_bias)[:, :, None, None]
    y = x_hat if layer.weight is None else layer.weight[c] * x_hat + layer.bias[c]
    y = y if residual is None else y + residual
    return y.relu() if hasattr(layer, 'act') else y


def gradients(y, inputs, dy):
    return torch.autograd.grad(y, inputs, dy)


@kinds
@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('mode', ['train', 'eval', 'eval_attacked'])
def test_output_and_every_gradient(kind, variant, mode):
    layer = randomized(KINDS[kind](5, dtype=torch.float64, **VARIANTS[variant])).train(mode == 'train')
    clean = copy.deepcopy(layer)
    assert add_norm_noise(layer, NA, NB, in_eval=mode == 'eval_attacked') == ['']
    x = (3 * torch.randn(4, 5, 3, 7, dtype=torch.float64) + 1).requires_grad_()
    residuals = [None]
    if kind == 'iebn_act':
        residuals.append(torch.randn(4, 5, 3, 7, dtype=torch.float64, requires_grad=True))
    for residual in residuals:
        inputs = [x, *layer.parameters(), *([] if residual is None else [residual])]
        by_batch = mode == 'train' or variant == 'untracked'
        expected = oracle(layer, x, mode != 'eval', by_batch, residual)
        y = layer(x.clone()) if residual is None else layer(x.clone(), residual)
        dy = torch.randn_like(y)
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
        for a, b in zip(gradients(y, inputs, dy), gradients(expected, inputs, dy), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        clean(x.detach()) if residual is None else clean(x.detach(), residual.detach())
    assert layer.state_dict().keys() == clean.state_dict().keys()
    for (name, a), b in zip(layer.named_buffers(), clean.buffers(), strict=True):
        assert torch.equal(a, b), f'{name}: running statistics are of x, not of the attacked value'


def test_the_gate_has_second_derivatives_under_attack():
    layer = randomized(IEBatchNormAct2d(2, dtype=torch.float64))
    add_norm_noise(layer, NA, NB)
    x = torch.randn(3, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda t: layer(t).square(), x)


def test_a_replaced_child_keeps_the_attack():
    layer = randomized(IEBatchNormAct2d(5, dtype=torch.float64))
    add_norm_noise(layer, NA, NB)

    class Normalization(nn.BatchNorm2d):  # as SyncBatchNorm, a type that the layer must call
        pass

    layer.bn.__class__ = Normalization
    x = torch.randn(4, 5, 3, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), oracle(layer, x, True, True), rtol=1e-10, atol=1e-10)


def test_frozen_statistics_are_not_attacked():
    layer = randomized(IEBatchNorm2d(5, dtype=torch.float64))
    add_norm_noise(layer, NA, NB)
    layer.bn.eval()
    x = torch.randn(4, 5, 3, 7, dtype=torch.float64)
    torch.testing.assert_close(layer(x), oracle(layer, x, False, False), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
@kinds
def test_dtype_of_the_input_is_kept(kind, dtype):
    layer = randomized(KINDS[kind](5))
    add_norm_noise(layer, NA, NB)
    x = torch.randn(4, 5, 3, 7).to(dtype)
    y = layer(x.clone())
    assert y.dtype == dtype
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(y.float(), oracle(layer, x.float(), True, True), rtol=tolerance, atol=tolerance)


def _network(norm):
    return randomized(timm.create_model(f'{norm}_resnet20_cifar', num_classes=4, channels=(4, 4, 8), stem_width=4))


@pytest.mark.parametrize('norm, count', [('bn', 21), ('se', 21), ('iebn', 21)])
def test_every_norm_of_a_network_and_nothing_in_eval(norm, count):
    model, x = _network(norm), torch.randn(3, 3, 8, 8)
    clean = copy.deepcopy(model)
    names = add_norm_noise(model, NA, NB)
    assert len(names) == count and not any(name.endswith('.bn') for name in names)
    assert not torch.equal(model(x), clean(x))
    for a, b in zip(model.bn1.buffers(), clean.bn1.buffers(), strict=True):
        assert torch.equal(a, b)
    clean.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(x), clean.eval()(x))


def test_copies_and_pickles_are_attacked_too():
    model, x = _network('iebn'), torch.randn(3, 3, 8, 8)
    add_norm_noise(model, NA, NB)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    expected = model(x)
    assert all(torch.equal(m(x), expected) for m in copies)


def test_compiled_like_eager():
    model, x = _network('iebn'), torch.randn(3, 3, 8, 8)
    add_norm_noise(model, NA, NB)
    compiled = torch.compile(copy.deepcopy(model), backend='eager')
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_attacked_is_refused_and_left():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.SyncBatchNorm(3))
    with pytest.raises(UsageError, match="'1' is a SyncBatchNorm"):
        add_norm_noise(model, NA, NB)
    assert type(model[0]) is nn.BatchNorm2d
    with pytest.raises(UsageError, match='no batch normalization'):
        add_norm_noise(nn.Linear(2, 2), NA, NB)
    with pytest.raises(UsageError, match='Na nan'):
        add_norm_noise(model[:1], float('nan'), NB)
    add_norm_noise(model[:1], NA, NB)
    with pytest.raises(UsageError, match='fresh model'):
        add_norm_noise(model[:1], NA, NB)
