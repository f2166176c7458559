"""Everything that turns the layer into a graph computes the same: script, trace, freeze, fx, export, autograd."""
import copy

import pytest
import torch
from timm.models._features_fx import get_notrace_modules
from torch import nn

from iebn_zoo import IEBatchNorm2d
from tests.support.layers import randomized
from tests.support.versions import OLD_TORCH

modes = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
variants = pytest.mark.parametrize('kwargs', [
    {}, {'affine': False}, {'track_running_stats': False}, {'momentum': None}], ids=str)


def layer_and_input(**kwargs):
    torch.manual_seed(0)
    return randomized(IEBatchNorm2d(6, **kwargs)), torch.randn(4, 6, 5, 7) + 0.5


def assert_same(actual, expected, x):
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, z = actual(a), expected(b)
    torch.testing.assert_close(y, z, atol=1e-5, rtol=1e-5)
    y.square().sum().backward()
    z.square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)


@modes
@variants
def test_script(training, kwargs):
    layer, x = layer_and_input(**kwargs)
    scripted = torch.jit.script(copy.deepcopy(layer).train(training))
    assert_same(scripted, layer.train(training), x)
    for key, value in scripted.state_dict().items():
        torch.testing.assert_close(value, layer.state_dict()[key])
    with pytest.raises(Exception, match='4-D'):
        scripted(x[0])


def test_script_follows_the_mode():
    layer, x = layer_and_input()
    scripted = torch.jit.script(copy.deepcopy(layer))
    for training in (True, False, True):
        assert_same(scripted.train(training), layer.train(training), x)


@pytest.mark.parametrize('compile_', [torch.jit.script, lambda m: torch.jit.trace(m, torch.randn(2, 6, 3, 3))],
                         ids=['script', 'trace'])
def test_freeze_and_optimize_for_inference(compile_):
    layer, x = layer_and_input()
    model = nn.Sequential(nn.Conv2d(6, 6, 3), layer, nn.ReLU(inplace=True)).eval()
    compiled = compile_(copy.deepcopy(model))
    for optimized in (compiled, torch.jit.freeze(compiled), torch.jit.optimize_for_inference(compiled)):
        with torch.no_grad():
            for _ in range(3):  # the profiling executor compiles on the second call
                torch.testing.assert_close(optimized(x), model(x), atol=1e-5, rtol=1e-5)


@modes
@variants
def test_fx(training, kwargs):
    layer, x = layer_and_input(**kwargs)
    traced = torch.fx.symbolic_trace(nn.Sequential(copy.deepcopy(layer)).train(training))
    assert_same(traced, layer.train(training), x)
    for key, value in traced.state_dict().items():
        torch.testing.assert_close(value, layer.state_dict()[key.removeprefix('0.')])


@pytest.mark.parametrize('graph', [torch.fx.symbolic_trace, torch.jit.script], ids=['fx', 'script'])
def test_a_graph_reads_the_statistics_that_are_loaded_later(graph):
    layer, x = layer_and_input()
    traced = graph(nn.Sequential(copy.deepcopy(layer)).eval())
    other = nn.Sequential(randomized(IEBatchNorm2d(6), seed=1)).eval()
    missing, unexpected = traced.load_state_dict(other.state_dict(), strict=False)
    assert missing == [] and set(unexpected) <= {'0.bn.num_batches_tracked'}  # FX keeps only what the graph reads
    torch.testing.assert_close(traced(x), other(x))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_graph_of_a_narrow_layer_computes_in_float32(dtype):
    layer, x = layer_and_input()
    layer, x = layer.eval().to(dtype), x.to(dtype)
    exact = copy.deepcopy(layer).double()(x.double())
    for graph in (torch.jit.script(layer), torch.fx.symbolic_trace(layer)):
        y = graph(x)
        assert y.dtype == dtype
        assert (y.double() - exact).norm() <= torch.finfo(dtype).eps / 2 * exact.norm()


def test_is_a_leaf_of_timm_feature_extraction():
    assert IEBatchNorm2d in get_notrace_modules()


@pytest.mark.skipif(OLD_TORCH, reason='torch 2.6 exports no dynamic batch')
def test_export_with_dynamic_batch():
    layer, x = layer_and_input()
    program = torch.export.export(layer.eval(), (x,), dynamic_shapes=({0: torch.export.Dim('batch')},))
    for batch in (2, 4, 9):
        x = torch.randn(batch, 6, 5, 7)
        torch.testing.assert_close(program.module()(x), layer(x), atol=1e-6, rtol=1e-5)


class Chosen(nn.Module):
    """A layer over the instances that a mask chooses, as in the heads of detectors: the batch depends on the data."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, mask):
        return self.layer(x[mask.nonzero()[:, 0]])


@modes
@pytest.mark.skipif(OLD_TORCH, reason='torch 2.6 exports no dynamic batch')
def test_export_with_a_batch_that_depends_on_the_data(training):
    layer = Chosen(randomized(IEBatchNorm2d(6)).train(training))
    x, mask = torch.randn(4, 6, 5, 7), torch.tensor([True, False, True, True])
    program = torch.export.export(copy.deepcopy(layer), (x, mask)).module()
    torch.testing.assert_close(program(x, mask), layer(x, mask), atol=1e-6, rtol=1e-5)


@modes
def test_functional_call(training):
    layer, x = layer_and_input()
    other = randomized(IEBatchNorm2d(6), seed=1).train(training)
    state = {k: v.clone() for k, v in other.state_dict().items()}
    before = copy.deepcopy(layer.state_dict())
    y = torch.func.functional_call(layer.train(training), state, (x,))
    torch.testing.assert_close(y, other(x))
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


@modes
def test_double_backward(training):
    layer, x = layer_and_input()
    layer = layer.double().train(training)
    x = x[:2, :, :3, :2].double().requires_grad_()
    (dx,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    dx.square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@modes
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc'])
def test_in_place_activation_behind_it(training, memory_format):
    layer, x = layer_and_input()
    x = x.contiguous(memory_format=memory_format)
    in_place = nn.Sequential(copy.deepcopy(layer), nn.ReLU(inplace=True)).train(training)
    assert_same(in_place, nn.Sequential(layer, nn.ReLU()).train(training), x)
    for (name, p), q in zip(in_place[0].named_parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


@modes
def test_autocast(training):
    """bf16 in, bf16 out, and as close to the exact result as nn.BatchNorm2d in the same place."""
    torch.manual_seed(0)
    layer, bn = IEBatchNorm2d(8).train(training), nn.BatchNorm2d(8).train(training)
    statistics = {'running_mean': torch.rand(8) * 4, 'running_var': torch.rand(8) + 0.5}
    layer.bn.load_state_dict(statistics, strict=False)
    bn.load_state_dict(statistics, strict=False)
    x = (torch.randn(4, 8, 16, 16) + 2).bfloat16()
    exact = {m: copy.deepcopy(m).double()(x.double()) for m in (layer, bn)}
    error = {}
    for module in (layer, bn):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            y = module(x)
        assert y.dtype == torch.bfloat16
        error[module] = ((y.double() - exact[module]).norm() / exact[module].norm()).item()
    assert error[layer] <= 1.1 * error[bn], error
    with torch.autocast('cpu', dtype=torch.bfloat16):
        conv = nn.Sequential(nn.Conv2d(8, 8, 1), copy.deepcopy(layer), nn.Conv2d(8, 8, 1))
        y = conv(x.float())
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in conv.parameters())
