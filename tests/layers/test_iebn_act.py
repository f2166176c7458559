"""IEBatchNormAct2d: the same function, state and graphs as IEBatchNorm2d followed by its activation."""
import copy
import pickle

import pytest
import torch
from timm.models._features_fx import get_notrace_modules
from torch import nn

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from tests.support.layers import randomized

modes = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
VARIANTS = {
    'relu': {}, 'relu6': {'act_layer': 'relu6'}, 'silu': {'act_layer': nn.SiLU},
    'leaky': {'act_layer': nn.LeakyReLU, 'act_kwargs': {'negative_slope': 0.3}}, 'none': {'apply_act': False},
    'not_in_place': {'inplace': False}, 'told_twice': {'act_kwargs': {'inplace': False}},
    'not_affine': {'affine': False}, 'untracked': {'track_running_stats': False},
    'drop': {'drop_layer': nn.Identity}, 'momentum': {'momentum': None}}
variants = pytest.mark.parametrize('variant', VARIANTS)
residuals = pytest.mark.parametrize('with_residual', [False, True], ids=['alone', 'residual'])


def fused_and_separate(variant='relu', dtype=torch.float64):
    fused = randomized(IEBatchNormAct2d(6, dtype=dtype, **VARIANTS[variant]))
    kwargs = {k: v for k, v in VARIANTS[variant].items() if k in ('affine', 'track_running_stats', 'momentum')}
    norm = IEBatchNorm2d(6, dtype=dtype, **kwargs)
    norm.load_state_dict(fused.state_dict())
    return fused, norm, copy.deepcopy(fused.act)


@modes
@variants
@residuals
@pytest.mark.parametrize('graph', [nn.Identity(), torch.jit.script, torch.fx.symbolic_trace],
                         ids=['eager', 'script', 'fx'])
def test_equals_norm_then_activation(variant, training, with_residual, graph):
    fused, norm, act = fused_and_separate(variant)
    x, shortcut = torch.randn(2, 4, 6, 5, 7, dtype=torch.float64).unbind()
    inputs = [[t.clone().requires_grad_() for t in ((x, shortcut) if with_residual else (x,))] for _ in range(2)]
    layer = fused.train(training)
    if graph is torch.fx.symbolic_trace:
        concrete = None if with_residual else {'residual': None}
        layer = torch.fx.symbolic_trace(layer, concrete_args=concrete)
    else:
        layer = graph(layer)
    y = layer(*inputs[0])
    z = norm.train(training)(inputs[1][0])
    z = act(z + inputs[1][1] if with_residual else z)
    torch.testing.assert_close(y, z, atol=1e-12, rtol=1e-12)
    y.square().sum().backward()
    z.square().sum().backward()
    for a, b in zip(*inputs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-10, rtol=1e-10)
    if graph is not torch.fx.symbolic_trace:
        for (name, a), b in zip(layer.named_parameters(), norm.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=1e-10, rtol=1e-10, msg=name)


@variants
def test_state_dict_is_that_of_the_norm(variant):
    fused, norm, _ = fused_and_separate(variant)
    assert list(fused.state_dict()) == list(norm.state_dict())
    fused.load_state_dict(norm.state_dict())


def test_from_norm_shares_parameters_and_statistics():
    norm = randomized(IEBatchNorm2d(6)).eval()
    fused = IEBatchNormAct2d.from_norm(norm, nn.ReLU())
    assert not fused.training and fused.bn is norm.bn
    assert all(a is b for a, b in zip(fused.parameters(), norm.parameters(), strict=True))
    x = torch.randn(3, 6, 4, 4)
    torch.testing.assert_close(fused(x), norm(x).relu())
    bare = IEBatchNormAct2d.from_norm(IEBatchNorm2d(6, affine=False), nn.ReLU())
    assert bare.weight is None and bare.bias is None
    norm.register_parameter('bias', None)  # as of a BatchNorm without bias, converted
    assert IEBatchNormAct2d.from_norm(norm, nn.ReLU()).bias is None


def test_the_relu_is_computed_by_the_operator(monkeypatch):
    fused = IEBatchNormAct2d(6)
    calls = []
    monkeypatch.setattr(nn.ReLU, 'forward', lambda self, x: calls.append(1) or x)
    fused(torch.randn(2, 6, 3, 3))
    assert not calls


def hook(child, seen):
    child.register_forward_hook(lambda m, args, y: seen.append(y.clone()))


def patch(child, seen):
    old = child.forward
    child.forward = lambda x: seen.append(old(x.clone())) or seen[-1].clone()


@pytest.mark.parametrize('listen', [hook, patch])
@pytest.mark.parametrize('child', ['act', 'drop'])
def test_a_hooked_child_is_called(child, listen):
    """A feature hook on the activation must see what it would see behind a separate norm."""
    fused, norm, _ = fused_and_separate()
    seen = []
    listen(getattr(fused, child), seen)
    x = torch.randn(3, 6, 4, 4, dtype=torch.float64)
    fused.eval()(x)
    expected = norm.eval()(x)
    torch.testing.assert_close(seen[0], expected.relu() if child == 'act' else expected)


def test_a_replaced_activation_acts():
    fused, norm, _ = fused_and_separate()
    fused.act = nn.Tanh()
    x = torch.randn(3, 6, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(fused.eval()(x), norm.eval()(x).tanh())


def test_tools_that_replace_the_child():
    fused, norm, _ = fused_and_separate()
    x = torch.randn(3, 6, 4, 4, dtype=torch.float64)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(fused)).eval()
    assert type(synced) is IEBatchNormAct2d and isinstance(synced.bn, nn.SyncBatchNorm)
    torch.testing.assert_close(synced(x), norm.eval()(x).relu())


def test_copies():
    fused, _, _ = fused_and_separate()
    x = torch.randn(3, 6, 4, 4, dtype=torch.float64)
    for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        torch.testing.assert_close(other(x), copy.deepcopy(fused)(x), atol=0, rtol=0)
    assert IEBatchNormAct2d in get_notrace_modules()


@modes
def test_autocast(training):
    """bfloat16 in and out, and as close to the exact result as BatchNorm2d and ReLU in the same place."""
    torch.manual_seed(0)
    fused = IEBatchNormAct2d(8).train(training)
    bn = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()).train(training)
    randomized(fused), randomized(bn)  # new statistics would make BatchNorm2d the identity
    x = (torch.randn(4, 8, 16, 16) + 2).bfloat16()
    errors = []
    for module in (fused, bn):
        exact = copy.deepcopy(module).double()(x.double())
        with torch.autocast('cpu', dtype=torch.bfloat16):
            y = module(x)
        assert y.dtype == torch.bfloat16
        errors.append((y.double() - exact).norm() / exact.norm())
    assert errors[0] <= 1.1 * errors[1], errors
