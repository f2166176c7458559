"""The Triton kernels behind ``ops.ie_batch_norm``: what they take, autograd, counters, graphs and streams."""
import itertools
import types
import warnings

import pytest
import torch

from iebn_zoo import ops
from iebn_zoo.layers import IEBatchNormAct2d
from iebn_zoo.ops import composed, triton_counters
from iebn_zoo.ops import triton as backend
from tests.support.ops.triton_runs import (
    CUDA,
    DEVICE,
    draw_all,
    layouts,
    modes,
    poisoned,
    run,
    runs_kernels,
    tensors_of,
)

pytest.importorskip('triton', reason='Triton is not installed')
__all__ = ['poisoned']  # a fixture of every test here


def test_what_is_supported():
    x, narrow = torch.zeros(2, 3, 4, 4, device=DEVICE), torch.zeros(3, device=DEVICE, dtype=torch.float16)
    assert backend.supports(x) == backend.supports(x.half(), None, narrow) == CUDA
    for refused in [(x.double(),), (x[:0],), (x, narrow.double()), (x, narrow.cpu()), (x, narrow.new_zeros(6)[::2])]:
        assert not backend.supports(*refused)


@pytest.mark.parametrize('shape, supported', [
    ((1, 1, 2 ** 14, 2 ** 14 - 1), True), ((1, 1, 2 ** 14, 2 ** 14), False), ((2, 2 ** 18 - 1, 1, 1), True),
    ((1, 2 ** 18, 1, 1), False), ((2 ** 12, 2 ** 17, 2, 2), True), ((2 ** 13, 2 ** 17, 1, 1), False)])
def test_numbers_of_32_bits(monkeypatch, shape, supported):
    monkeypatch.setattr(backend, 'usable', lambda x: True)
    x = types.SimpleNamespace(
        is_cuda=True, dtype=torch.float16, layout=torch.strided, numel=lambda: 1, shape=shape, get_device=lambda: 0)
    assert backend.supports(x) == supported
    b, c, h, w = shape
    for nhwc in (False, True):
        vec, block_r, block_n = backend._tile(c, h * w, nhwc)
        last = (block_r - 1) + (block_n - 1) * c if nhwc else (block_r - 1) * h * w + block_n - 1
        assert not supported or max(last, b * c, h * w + block_n) < 2 ** 31


@pytest.fixture
def first_use(monkeypatch):
    """As if no kernel had been tried in this process; on a GPU that nobody has to have."""
    monkeypatch.setattr(backend, '_usable', {})
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)


def test_kernels_are_tried_once_per_dtype(first_use, monkeypatch):
    tried = []
    monkeypatch.setattr(backend, 'try_kernels', lambda x: tried.append(x.dtype))
    x = torch.zeros(1, device=DEVICE)
    assert all(backend.usable(x.to(dtype)) for dtype in (torch.float32, torch.float16, torch.float32))
    assert tried == [torch.float32, torch.float16]


def test_a_dtype_that_cannot_be_compiled(first_use, monkeypatch):
    def fail(x):
        if x.dtype == torch.bfloat16:
            raise RuntimeError('no bfloat16 on this GPU')

    monkeypatch.setattr(backend, 'try_kernels', fail)
    x = torch.zeros(1, device=DEVICE)
    assert backend.usable(x)
    with pytest.warns(UserWarning, match='bfloat16 runs on plain torch operations.*RuntimeError: no bfloat16.*gcc'):
        assert not backend.usable(x.bfloat16())
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # once is enough
        assert not backend.usable(x.bfloat16()) and backend.usable(x)


def test_nothing_is_tried_while_a_graph_is_captured(first_use, monkeypatch):
    monkeypatch.setattr(backend, 'try_kernels', lambda x: None)
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: True)
    assert not backend.usable(torch.zeros(1))
    monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda: False)
    assert backend.usable(torch.zeros(1))


def test_without_triton(first_use, monkeypatch):
    monkeypatch.setattr(backend, 'find_spec', lambda name: None)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert not backend.usable(torch.zeros(1))


@layouts
@pytest.mark.parametrize('processors', [8, 132])
def test_trial(monkeypatch, layout, processors):
    """It launches every kernel, behind a ReLU with and without residual, in the layout of what is asked for."""
    from iebn_zoo.ops import triton_kernels
    launched = []

    class Kernel:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, programs):
            return lambda *args, NHWC, RELU=None, **options: launched.append((self.name, NHWC, RELU))

    names = {'instance_statistics', 'instance_sums', 'normalize', 'gradient_sums', 'input_gradient'}
    for name in names:
        monkeypatch.setattr(triton_kernels, name, Kernel(name))
    monkeypatch.setattr(backend, 'sm_count', lambda device: processors)
    backend.try_kernels(torch.zeros(1, 2, 3, 4, device=DEVICE).contiguous(memory_format=layout))
    assert {name for name, *_ in launched} == names
    assert all(nhwc == (layout == torch.channels_last) for _, nhwc, _ in launched)
    assert {relu for name, _, relu in launched if name == 'input_gradient'} == {True, False}  # recomputed, and masked


@runs_kernels
def test_counters_are_zero_again():
    tensors, _ = tensors_of(draw_all((9, 70, 2, 2)))
    run(tensors, True)
    counters = triton_counters.zeros(tensors['x'].device, 1)
    assert counters.numel() >= triton_counters.SMALLEST and not counters.any()
    assert counters is triton_counters.zeros(tensors['x'].device, counters.numel()), 'cleared for every launch'
    assert triton_counters.zeros(tensors['x'].device, counters.numel() + 1).numel() > counters.numel()


@pytest.fixture
def dispatched(monkeypatch):
    """``ops.ie_batch_norm`` computes with these kernels, also in the interpreter."""
    monkeypatch.setattr(ops, '_closed_form', lambda *tensors: backend)


def norms(training, x):
    """IEBN, ReLU and shortcut: the layer, and the formula, on a shortcut that needs a gradient."""
    torch.manual_seed(0)
    layer = IEBatchNormAct2d(x.size(1)).to(DEVICE).train(training)
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    shortcut = torch.randn_like(x, requires_grad=True)
    leaves = [x, shortcut, *layer.parameters()]

    def formula():
        return composed.ie_batch_norm(
            x, layer.bn.running_mean.clone(), layer.bn.running_var.clone(), layer.weight, layer.bias,
            layer.gate_weight, layer.gate_bias, training, relu=True, residual=shortcut)

    return layer, lambda: layer(x, shortcut), formula, leaves


@runs_kernels
@modes
def test_autograd(dispatched, training):
    """First and second derivatives through the layer; an output that is changed behind the graph is noticed."""
    layer, ours, formula, leaves = norms(training, torch.randn(3, 5, 6, 7, device=DEVICE, requires_grad=True))
    weights = torch.randn(3, 5, 6, 7, device=DEVICE)
    results = []
    for function in (ours, formula):
        y = function()
        first = torch.autograd.grad((y * weights).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves, allow_unused=True)
        second = [torch.zeros_like(t) if g is None else g for g, t in zip(second, leaves, strict=True)]
        results.append((y, *first, *second))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-3)
    assert layer.bn.num_batches_tracked == training
    once = torch.autograd.grad(ours(), leaves, weights)  # by the kernels, not by the formula
    for actual, expected in zip(once, results[0][1:], strict=False):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    y = ours()
    y.detach().add_(1)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        y.sum().backward()


@runs_kernels
@modes
def test_a_batch_of_gradients(dispatched, training):
    """No kernel reads what vmap batches: the formula computes such gradients."""
    _, ours, _, leaves = norms(training, torch.randn(3, 5, 6, 7, device=DEVICE, requires_grad=True))
    y, batch = ours(), torch.randn(2, 3, 5, 6, 7, device=DEVICE)
    rows = [torch.autograd.grad(y, leaves, dy, retain_graph=True) for dy in batch]
    found = [torch.autograd.grad(y, leaves, batch, is_grads_batched=True, retain_graph=True),
             torch.vmap(lambda dy: torch.autograd.grad(y, leaves, dy, retain_graph=True))(batch)]
    for *actual, first, second in zip(*found, *rows, strict=True):
        for value in actual:
            torch.testing.assert_close(value, torch.stack([first, second]), atol=1e-4, rtol=1e-4)


@runs_kernels
def test_cumulative_average(dispatched):
    layer, bn = IEBatchNormAct2d(3, momentum=None).to(DEVICE), torch.nn.BatchNorm2d(3, momentum=None).to(DEVICE)
    for step in range(3):
        x = torch.randn(2, 3, 4, 4, device=DEVICE) * (step + 1) + step
        layer(x), bn(x)
    for key, value in layer.bn.state_dict().items():
        torch.testing.assert_close(value, bn.state_dict()[key])


def test_counters_of_graphs(monkeypatch):
    """A captured launch gets counters that no other gets; where they are used up, cleared ones of its own."""
    device = torch.device('cpu')
    monkeypatch.setattr(triton_counters, '_reserves', {device.index: [torch.zeros(100, dtype=torch.int32)]})
    given = [triton_counters._for_a_graph(device, count) for count in (40, 1, 40)]
    first, last = given[0].data_ptr(), given[0].data_ptr() + 4 * 100
    assert [first <= t.data_ptr() < last for t in given] == [True, True, False]
    for one, other in itertools.permutations(given, 2):
        assert not one.data_ptr() <= other.data_ptr() < one.data_ptr() + 4 * one.numel()
    assert all(not t.any() and t.numel() >= count for t, count in zip(given, (40, 1, 40), strict=True))


@pytest.mark.skipif(not CUDA, reason='no GPU')
@layouts
def test_graphs_and_streams(layout):
    """Two graphs and an eager step that run at the same time, on three streams, give the bits of each alone."""
    x = torch.randn(32, 24, 28, 28, device=DEVICE).contiguous(memory_format=layout).requires_grad_()
    layer, ours, _, leaves = norms(True, x)

    def step():
        y = ours()
        return (y, *torch.autograd.grad(y, leaves, torch.ones_like(y)))

    expected = [t.detach().clone() for t in step()]  # a graph of autograd kept here would invalidate the capture
    graphs, outputs = [], []
    for _ in range(2):
        graphs.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[-1]):
            outputs.append(step())
    streams = [torch.cuda.Stream() for _ in range(3)]
    before = layer.bn.num_batches_tracked.clone()
    torch.cuda.synchronize()
    for _ in range(20):
        for stream, replay in zip(streams, (graphs[0].replay, graphs[1].replay, None), strict=True):
            with torch.cuda.stream(stream):
                if replay is None:
                    eager = step()
                else:
                    replay()
    torch.cuda.synchronize()
    for found in (*outputs, eager):
        assert all(map(torch.equal, found, expected))
    assert layer.bn.num_batches_tracked == before + 60
