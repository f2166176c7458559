"""Tools that replace or freeze BatchNorm2d act on the child, and the layer stays exact."""
import copy

import pytest
import timm.layers
import timm.utils
import torch
from torch import nn
from torch.fx import symbolic_trace

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from tests.support.layers import randomized

GATES = ('weight', 'bias', 'gate_weight', 'gate_bias')


@pytest.fixture
def model():
    torch.manual_seed(0)
    return randomized(nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), IEBatchNorm2d(6), nn.ReLU(inplace=True)))


@pytest.fixture
def x():
    return torch.randn(4, 3, 9, 8) + 0.5


def statistics(model):
    return {k: v.clone() for k, v in model.state_dict().items() if 'running' in k}


def assert_equal(a, b):
    assert a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def freeze_by_timm_layers(model):
    return timm.layers.freeze_batch_norm_2d(model)


def freeze_by_timm_utils(model):
    timm.utils.freeze(model)
    return model


def freeze_by_idiom(model):
    model.train()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()
    return model


@pytest.mark.parametrize('freeze', [freeze_by_timm_layers, freeze_by_timm_utils, freeze_by_idiom])
def test_frozen_statistics_do_not_move(model, x, freeze):
    expected = copy.deepcopy(model).eval()(x)
    before = statistics(model)
    frozen = freeze(model)
    if freeze is not freeze_by_idiom:  # a child of its own kind: not even train() thaws it
        frozen.train()
    y = frozen(x)
    torch.testing.assert_close(y, expected)
    assert_equal(statistics(frozen), before)
    assert set(GATES) <= {k.removeprefix('1.') for k, _ in frozen.named_parameters()}


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_unfrozen_is_exact(model, x, training):
    original = copy.deepcopy(model).train(training)
    thawed = timm.layers.unfreeze_batch_norm_2d(timm.layers.freeze_batch_norm_2d(model)).train(training)
    assert isinstance(thawed[1].bn, nn.BatchNorm2d)
    for _ in range(2):
        torch.testing.assert_close(thawed(x), original(x), atol=1e-5, rtol=1e-5)
    for key, value in statistics(original).items():
        torch.testing.assert_close(thawed.state_dict()[key], value)


def test_split_batch_norm(model, x):
    halves = [copy.deepcopy(model), copy.deepcopy(model)]
    split = timm.layers.convert_splitbn_model(copy.deepcopy(model), num_splits=2)
    assert type(split[1].bn).__name__ == 'SplitBatchNorm2d'
    torch.testing.assert_close(split(x), torch.cat([m(h) for m, h in zip(halves, x.chunk(2), strict=True)]))
    for key, value in statistics(halves[0]).items():  # SplitBatchNorm2d sums by torch's batch_norm, in another order
        torch.testing.assert_close(split.state_dict()[key], value)
    torch.testing.assert_close(split[1].bn.aux_bn[0].running_var, halves[1][1].bn.running_var)
    torch.testing.assert_close(split.eval()(x), halves[0].eval()(x))


@pytest.mark.parametrize('convert', [
    nn.SyncBatchNorm.convert_sync_batchnorm, timm.layers.convert_sync_batchnorm], ids=['torch', 'timm'])
def test_sync_batch_norm(model, x, convert):
    expected = copy.deepcopy(model).eval()(x)
    synced = convert(copy.deepcopy(model)).eval()
    assert type(synced[1]) is IEBatchNorm2d and isinstance(synced[1].bn, nn.SyncBatchNorm)
    assert_equal(dict(synced.state_dict()), dict(model.state_dict()))
    torch.testing.assert_close(synced(x), expected)
    assert synced.train()[1].bn.training


def test_update_bn(model):
    batches = [torch.randn(4, 3, 9, 8) * (i + 1) for i in range(3)]
    torch.optim.swa_utils.update_bn(batches, model)
    conv = [model[0](b).detach() for b in batches]
    torch.testing.assert_close(
        model[1].bn.running_mean, torch.stack([c.mean((0, 2, 3)) for c in conv]).mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        model[1].bn.running_var, torch.stack([c.var((0, 2, 3)) for c in conv]).mean(0), atol=1e-5, rtol=1e-5)
    assert model[1].bn.momentum == 0.1 and model[1].bn.num_batches_tracked == 3


@pytest.mark.parametrize('swap', [
    timm.layers.freeze_batch_norm_2d, lambda m: timm.layers.unfreeze_batch_norm_2d(timm.layers.freeze_batch_norm_2d(m)),
    timm.layers.convert_splitbn_model], ids=['frozen', 'thawed', 'split'])
def test_gradients_after_a_swap(model, x, swap):
    swapped = swap(model).train()
    swapped(x).square().sum().backward()
    for name in GATES:
        gradient = getattr(swapped[1], name).grad
        assert gradient is not None and gradient.isfinite().all() and gradient.abs().sum() > 0, name


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize(
    'graph', [nn.Identity(), torch.jit.script, torch.fx.symbolic_trace], ids=['eager', 'script', 'fx'])
def test_a_thawed_child_may_learn(model, x, training, graph):
    """Its new weight and bias act on the normalized input, before the gate, in every path."""
    layer = timm.layers.unfreeze_batch_norm_2d(timm.layers.freeze_batch_norm_2d(model))[1].train(training)
    x = torch.randn(4, 6, 9, 8)
    normalized = copy.deepcopy(layer.bn)(x)
    with torch.no_grad():
        layer.bn.weight.fill_(3.0)
        layer.bn.bias.fill_(0.5)
    gate = torch.sigmoid(layer.gate_weight * x.mean((2, 3)) + layer.gate_bias)[:, :, None, None]
    weight, bias = (p[:, None, None] for p in (layer.weight, layer.bias))
    torch.testing.assert_close(
        graph(nn.Sequential(layer))(x), weight * gate * (3 * normalized + 0.5) + bias, atol=1e-5, rtol=1e-5)


HOOKS = {
    'forward': lambda child, seen: child.register_forward_hook(lambda *args: seen.append(args)),
    'before': lambda child, seen: child.register_forward_pre_hook(lambda *args: seen.append(args)),
    'backward': lambda child, seen: child.register_full_backward_hook(lambda *args: seen.append(args)),
}


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('kind', [IEBatchNorm2d, IEBatchNormAct2d])
@pytest.mark.parametrize('hook', HOOKS.values(), ids=HOOKS)
def test_hooks_of_the_child_are_called(hook, kind, training):
    torch.manual_seed(0)
    layer, x, seen = randomized(kind(6)).double().train(training), torch.randn(4, 6, 9, 8).double(), []
    other = copy.deepcopy(layer)
    handles = [hook(m, seen) for m in layer.modules() if isinstance(m, nn.BatchNorm2d)]
    results = [torch.autograd.grad(net(z).square().sum(), [z, *net.parameters()])
               for net in (layer, other) for z in [x.clone().requires_grad_()]]
    assert len(handles) == len(seen) == 1
    torch.testing.assert_close(results[0], results[1])
    assert_close_states(layer, other)
    handles[0].remove()
    layer(x)
    assert len(seen) == 1


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_a_graph_calls_them_once(training):
    layer, x = randomized(IEBatchNorm2d(6)).train(training), torch.randn(4, 6, 9, 8)
    layer.bn.register_forward_hook(lambda module, args, y: 2 * y)
    expected = copy.deepcopy(layer)(x)
    torch.testing.assert_close(symbolic_trace(layer)(x), expected)


def assert_close_states(a, b):
    for key, value in a.state_dict().items():
        torch.testing.assert_close(value, b.state_dict()[key], msg=key)
