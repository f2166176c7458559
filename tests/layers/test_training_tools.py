"""torch's tools around a training step: compile, checkpointing, torch.func, DDP, deterministic mode, tracing modes."""
import copy
import shutil

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from tests.support.layers import randomized

modes = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
layers = pytest.mark.parametrize('layer_class', [IEBatchNorm2d, IEBatchNormAct2d])
memory_formats = pytest.mark.parametrize(
    'memory_format', [torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc'])


def step(module, x):
    """Output, gradients and buffers of one step on a copy."""
    x = x.clone().requires_grad_()
    y = module(x)
    (y * torch.sin(torch.arange(y.numel()).view(y.shape))).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in module.parameters()), *(b.clone() for b in module.buffers())]


def assert_same(actual, expected, tolerance=1e-5):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@modes
@layers
@memory_formats
def test_compile_without_a_break_for_any_batch(fresh_compiler, layer_class, training, memory_format):
    """One graph, traced once, and once more when the batch changes; the numerics of eager."""
    layer = randomized(layer_class(6)).train(training)
    expected = copy.deepcopy(layer)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend('aot_eager')(graph, inputs)

    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for batch in (2, 5, 9, 4):
        x = torch.randn(batch, 6, 7, 5).contiguous(memory_format=memory_format)
        layer.zero_grad()
        expected.zero_grad()
        assert_same(step(compiled, x), step(expected, x))
    assert len(graphs) <= 2, 'a new batch size recompiles'


@pytest.mark.skipif(not (shutil.which('g++') or shutil.which('clang++')), reason='inductor needs a C++ compiler')
def test_compile_with_inductor(fresh_compiler):
    layer = randomized(IEBatchNormAct2d(6))
    x = torch.randn(4, 6, 9, 8)
    assert_same(step(torch.compile(copy.deepcopy(layer), fullgraph=True), x), step(layer, x), 1e-4)


@modes
@layers
@pytest.mark.parametrize('reentrant', [True, False])
def test_activation_checkpointing(layer_class, training, reentrant):
    """Gradients are the same; statistics move twice, as those of nn.BatchNorm2d do."""
    layer = randomized(layer_class(6)).train(training)
    plain, bn = copy.deepcopy(layer), nn.BatchNorm2d(6, momentum=layer.bn.momentum).train(training)
    bn.load_state_dict(layer.bn.state_dict(), strict=False)
    x = torch.randn(4, 6, 7, 5)
    actual = step_checkpointed(layer, x, reentrant)
    expected = step(plain, x)
    assert_same(actual[:6], expected[:6])
    checkpoint(bn, x.clone().requires_grad_(), use_reentrant=reentrant).sum().backward()
    torch.testing.assert_close(layer.bn.running_mean, bn.running_mean)
    torch.testing.assert_close(layer.bn.running_var, bn.running_var)


def step_checkpointed(module, x, reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    return step(Checkpointed(), x)


@modes
@layers
def test_func_grad(layer_class, training):
    layer = randomized(layer_class(6, track_running_stats=not training)).train(training)
    x = torch.randn(4, 6, 7, 5)
    parameters = {k: v.detach() for k, v in layer.named_parameters()}

    def loss(parameters, x):
        return functional_call(layer, parameters, (x,)).square().sum()

    found = grad(loss)(parameters, x)
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-4, rtol=1e-4)


@modes
@layers
@pytest.mark.parametrize('grad', [True, False])
def test_forward_mode_derivative(layer_class, training, grad):
    """Along a direction of input and parameters, against the backward of the same layer."""
    layer = randomized(layer_class(3).double()).train(training)
    generator = torch.Generator().manual_seed(5)

    def draw(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    at = {'x': draw((4, 3, 6, 5)), **{name: p.detach() for name, p in layer.named_parameters()}}
    along = {name: draw(value.shape) for name, value in at.items()}

    def output(values):
        return functional_call(layer, {k: v for k, v in values.items() if k != 'x'}, (values['x'],))

    leaves = {name: value.clone().requires_grad_() for name, value in at.items()}
    y = output(leaves)
    dy = draw(y.shape)
    gradients = torch.autograd.grad(y, list(leaves.values()), dy)
    expected = sum((g * along[name]).sum() for g, name in zip(gradients, leaves, strict=True))
    with torch.set_grad_enabled(grad), forward_ad.dual_level():
        y = output({name: forward_ad.make_dual(value, along[name]) for name, value in at.items()})
        tangent = forward_ad.unpack_dual(y).tangent
    torch.testing.assert_close((tangent * dy).sum(), expected)


@layers
def test_per_sample_gradients(layer_class):
    layer = randomized(layer_class(6)).eval()
    x = torch.randn(3, 6, 7, 5)
    parameters = {k: v.detach() for k, v in layer.named_parameters()}

    def loss(parameters, x):
        return functional_call(layer, parameters, (x[None],)).square().sum()

    found = vmap(grad(loss), (None, 0))(parameters, x)
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(found[name].sum(0), parameter.grad, atol=1e-4, rtol=1e-4)


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path / "rendezvous"}', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@layers
def test_ddp(process_group, layer_class):
    module = nn.Sequential(nn.Conv2d(3, 6, 3), randomized(layer_class(6)))
    plain = copy.deepcopy(module)
    ddp = nn.parallel.DistributedDataParallel(module)
    x = torch.randn(4, 3, 9, 8)
    assert_same(step(ddp, x), step(plain, x))


def test_compiled_ddp(process_group, fresh_compiler, monkeypatch):
    """The graph is split, so that gradients of its second half travel while those of the first are computed."""
    monkeypatch.setattr(dist, '_DEFAULT_FIRST_BUCKET_BYTES', 100)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend('aot_eager')(graph, inputs)

    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), randomized(IEBatchNormAct2d(8)), nn.Conv2d(8, 8, 3), randomized(IEBatchNormAct2d(8)))
    plain = copy.deepcopy(module)
    ddp = torch.compile(nn.parallel.DistributedDataParallel(module, bucket_cap_mb=5e-4), backend=backend)
    x = torch.randn(4, 3, 9, 8)
    assert_same(step(ddp, x), step(plain, x), 1e-4)
    assert len(graphs) > 1


@modes
@layers
@memory_formats
def test_deterministic_mode(layer_class, training, memory_format):
    """Nothing nondeterministic is called, in the default warn_only=False."""
    torch.use_deterministic_algorithms(True)
    try:
        layer = randomized(layer_class(6)).train(training)
        x = torch.randn(4, 6, 7, 5).contiguous(memory_format=memory_format)
        assert_same(step(copy.deepcopy(layer), x), step(layer, x), 0)
    finally:
        torch.use_deterministic_algorithms(False)


@layers
def test_modes_that_watch_ops_see_plain_ones(layer_class):
    """A dispatch mode (counters, fake tensors) gets ops it can follow, without a look at values."""
    layer = randomized(layer_class(6))
    x = torch.randn(4, 6, 7, 5)
    with FlopCounterMode(display=False):
        y = copy.deepcopy(layer)(x)
    torch.testing.assert_close(y, layer(x))
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = layer_class(6)(mode.from_tensor(x))
        assert fake.shape == x.shape
    with torch.device('meta'):
        assert layer_class(6)(torch.empty(4, 6, 7, 5)).shape == x.shape


@layers
def test_frozen_parameters_take_no_gradient(layer_class):
    layer = randomized(layer_class(6))
    layer.weight.requires_grad_(False)
    layer.gate_bias.requires_grad_(False)
    x = torch.randn(4, 6, 7, 5)
    layer(x).square().sum().backward()
    assert layer.weight.grad is None and layer.gate_bias.grad is None
    expected = copy.deepcopy(layer).requires_grad_(True)
    expected.zero_grad()
    expected(x).square().sum().backward()
    torch.testing.assert_close(layer.gate_weight.grad, expected.gate_weight.grad)
    torch.testing.assert_close(layer.bias.grad, expected.bias.grad)
