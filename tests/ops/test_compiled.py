"""The operator under torch.compile: the closed form in plain ops. As a function it is among those of test_reference.py.

Most of it by the backend aot_eager, which traces forward and backward as inductor does and compiles neither.
"""
import copy
import shutil

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch.func import grad, jvp, vmap

from iebn_zoo import IEBatchNormAct2d, ops
from tests.ops.test_fused import assert_equal, by_formula, run
from tests.ops.test_reference import PARAMETERS, draw
from tests.support.layers import randomized

modes = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compiled(function=ops.ie_batch_norm, backend='aot_eager', **kwargs):
    return torch.compile(function, backend=backend, fullgraph=True, **kwargs)


def tensors(shape, dtype=torch.float64, **kwargs):
    args = {k: None if v is None else torch.from_numpy(v).to(dtype) for k, v in draw(shape, **kwargs).items()}
    return args, args.pop('dy')


@modes
@pytest.mark.parametrize('shape, layout, affine, tracked, relu, residual', [
    ((3, 5, 7, 11), None, True, True, True, True),
    ((5, 3, 1, 1), None, True, True, False, True),
    ((4, 6, 5, 3), 'channels_last', False, True, True, False),
    ((1, 7, 3, 2), 'strided_slice', True, False, False, False)])
def test_all_gradients(training, shape, layout, affine, tracked, relu, residual):
    args = draw(shape, affine=affine, tracked=tracked)
    assert_equal(run(compiled(), args, training, residual, relu, layout=layout),
                 run(by_formula, args, training, residual, relu), 1e-12)


@modes
def test_any_batch_size(training):
    """One graph where the batch, or everything, is marked as dynamic; otherwise no more graphs than BatchNorm's."""
    def ours(*args):
        return ops.ie_batch_norm(*args, training=training, relu=True)

    def batch_norm(x, mean, var, weight, bias, *gate):
        return F.batch_norm(x, mean, var, weight, bias, training)

    def graphs(function, mark=False, **kwargs):
        torch._dynamo.reset()
        counters.clear()
        f = compiled(function, **kwargs)
        for batch in (3, 5, 2):  # no two sizes are equal: the compiler would take that for a rule
            args, _ = tensors((batch, 4, 9, 7))
            expected = by_formula(**{k: v.clone() for k, v in args.items()}, training=training)
            if mark:
                torch._dynamo.mark_dynamic(args['x'], 0)
            y = f(*args.values())
            if function is ours:
                torch.testing.assert_close(y, expected, atol=1e-12, rtol=1e-12)
        return counters['stats']['unique_graphs']

    assert graphs(ours, mark=True) == 1
    assert graphs(ours, dynamic=True) == 1
    assert graphs(ours) <= graphs(batch_norm)


@modes
@pytest.mark.parametrize('wanted', [('x',), ('gate_weight', 'bias'), ('weight',), ('gate_bias', 'x')], ids=str)
def test_frozen_parameters(training, wanted):
    (args, dy), (others, _) = (tensors((3, 4, 5, 3)) for _ in range(2))
    for f, given in ((compiled(), args), (by_formula, others)):
        for name in wanted:
            given[name].requires_grad_()
        f(**given, training=training, relu=True).backward(dy)
    for name in ('x', *PARAMETERS):
        if name in wanted:
            torch.testing.assert_close(args[name].grad, others[name].grad, atol=1e-12, rtol=1e-12)
        else:
            assert args[name].grad is None


@modes
def test_passes_over_the_tensor(training):
    """Two sums over dy and dy·x in the graph of the backward, not those of the formula. Of tensors, x and y are saved:
    nothing wide, and no mask of the ReLU, which inductor would read and write one by one on the CPU."""
    graphs = {}

    def keep(name):
        return lambda graph, inputs: make_boxed_func(graphs.setdefault(name, graph))

    backend = aot_autograd(
        fw_compiler=keep('forward'), bw_compiler=keep('backward'), partition_fn=min_cut_rematerialization_partition)
    args, dy = tensors((4, 6, 9, 8), torch.float32)
    x = args.pop('x').bfloat16().requires_grad_()
    for name in PARAMETERS:
        args[name].requires_grad_()
    compiled(backend=backend)(x, **args, training=training, relu=True).backward(dy.bfloat16())

    def reductions(graph):
        return [n.target for n in graph.graph.nodes if n.op == 'call_function' and any(
            name in str(n.target) for name in ('sum', 'mean')) and n.args[0].meta['val'].numel() == x.numel()]

    assert reductions(graphs['forward']) == [
        torch.ops.aten.var_mean.correction if training else torch.ops.aten.mean.dim]
    assert reductions(graphs['backward']) == [torch.ops.aten.sum.dim_IntList] * 2
    (output,) = (n for n in graphs['forward'].graph.nodes if n.op == 'output')
    values = [n.meta['val'] for n in output.args[0] if isinstance(n, torch.fx.Node)]
    assert {t.dtype for t in values if t.numel() == x.numel()} == {torch.bfloat16}


@modes
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast(training, dtype):
    """Between convolutions under autocast: the numbers of the layer outside torch.compile, and float32 gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), randomized(IEBatchNormAct2d(6)), nn.Conv2d(6, 4, 1)).train(training)
    x = torch.randn(3, 3, 5, 7)
    results = []
    for function in (copy.deepcopy(model), compiled(copy.deepcopy(model))):
        with torch.autocast('cpu', dtype=dtype):
            y = function(x)
        assert y.dtype == dtype
        y.float().square().sum().backward()
        results.append([y.detach().float(), *(p.grad for p in function.parameters()), *function.buffers()])
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).float().norm() <= 4 * torch.finfo(dtype).eps * a.float().norm()


def test_everything_narrow():
    """model.bfloat16(): statistics and parameters keep their dtype, and are updated as outside torch.compile."""
    expected = randomized(IEBatchNormAct2d(6)).bfloat16()
    layer = copy.deepcopy(expected)
    x = torch.randn(4, 6, 5, 7).bfloat16()
    torch.testing.assert_close(compiled(layer)(x), expected(x))
    for (name, a), b in zip(layer.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@modes
def test_empty_batch(training):
    args, _ = tensors((2, 3, 4, 4))
    x = args.pop('x')[:0].requires_grad_()
    args['weight'].requires_grad_()
    y = compiled()(x, **args, training=training)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.shape == x.shape and torch.equal(args['weight'].grad, torch.zeros(3).double())


def penalty(f, x):
    (dx,) = torch.autograd.grad(f(x), x, create_graph=True)
    return torch.autograd.grad(dx.square().sum(), x)[0]


@modes
def test_second_derivative(training):
    """AOTAutograd refuses it in words of its own; where no AOTAutograd compiles the gradients, it is right."""
    args, dy = tensors((3, 4, 5, 3))
    x = args.pop('x').requires_grad_()

    def loss(f, **fixed):
        given = {k: v.clone() for k, v in args.items()}
        return lambda x: (f(x, **given, training=training, **fixed) * dy).sum()

    with pytest.raises(RuntimeError, match='does not currently support double backward'):
        penalty(loss(compiled()), x)
    found = penalty(loss(compiled(backend='eager')), x)
    torch.testing.assert_close(found, penalty(loss(ops.reference.ie_batch_norm), x), atol=1e-11, rtol=1e-11)


def test_transforms_of_torch_func():
    """Inside a compiled function they take the composed formula, which they can transform."""
    args, _ = tensors((3, 4, 5, 3), tracked=False)
    x = args.pop('x')

    def loss(f):
        return lambda x: f(x, **args, training=True).sin().sum()

    def transforms(f):
        return lambda x: (grad(f)(x), jvp(f, (x,), (x.cos(),))[1], vmap(f)(torch.stack([x, 2 * x])))

    for a, b in zip(compiled(transforms(loss(ops.ie_batch_norm)))(x),
                    transforms(loss(ops.reference.ie_batch_norm))(x), strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


@modes
@pytest.mark.parametrize('strict', [True, False])
def test_exported_graph_is_the_composed_formula(training, strict):
    class Operator(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            given = {k: v.clone() for k, v in args.items()}
            return self.function(x, **given, training=training, relu=True)

    args, _ = tensors((3, 4, 5, 3))
    x = args.pop('x')
    graphs = [torch.export.export(Operator(f), (x,), strict=strict).graph
              for f in (ops.ie_batch_norm, ops.composed.ie_batch_norm)]
    ours, expected = ([str(n.target) for n in g.nodes if n.op == 'call_function'] for g in graphs)
    assert ours == expected and 'aten.sigmoid.default' in ours


@pytest.mark.skipif(not (shutil.which('g++') or shutil.which('clang++')), reason='inductor needs a C++ compiler')
def test_inductor_with_a_large_mean():
    """channels_last, mean / std = 1e3 in float32: statistics and output as good as BatchNorm's."""
    torch.manual_seed(0)
    x = (torch.randn(5, 3, 9, 7) + 1e3).contiguous(memory_format=torch.channels_last)
    args = [torch.ones(3), torch.zeros(3), torch.full((3,), 1e-3), torch.full((3,), -1.0)]
    mean, var, bn_mean, bn_var = torch.zeros(3), torch.ones(3), torch.zeros(3), torch.ones(3)
    y = compiled(backend='inductor')(x, mean, var, *args, training=True, momentum=1.0)
    bn_y = F.batch_norm(x, bn_mean, bn_var, training=True, momentum=1.0)
    exact = x.double()
    expected = ops.reference.ie_batch_norm(exact, None, None, *(a.double() for a in args), training=True)

    def worst(a, b):
        return (a.double() - b).abs().max().item()

    exact_mean, exact_var = exact.mean((0, 2, 3)), exact.transpose(0, 1).reshape(3, -1).var(1)
    assert worst(var, exact_var) <= 2 * worst(bn_var, exact_var) + 5e-7
    assert worst(mean, exact_mean) <= 2 * worst(bn_mean, exact_mean) + 1e-4
    assert worst(y, expected) <= 3 * worst(bn_y, F.batch_norm(exact, None, None, training=True)) + 1e-6
