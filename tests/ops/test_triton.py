"""What the Triton kernels compute, on the GPU or, where there is none, in Triton's interpreter.

The interpreter computes in numpy what the kernels say; that a compiler takes them ``test_triton_compiled.py`` shows. On
a GPU each kind of tile and each combination of options is compiled anew, so there shapes and options come from few.
"""
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iebn_zoo.ops import reference
from iebn_zoo.ops import triton as backend
from iebn_zoo.ops.function import Needs
from tests.ops.test_reference import LAYOUTS, draw
from tests.support.gpu_device import much_memory
from tests.support.ops.triton_runs import (
    CUDA,
    DEVICE,
    EPS,
    GRADIENTS,
    INTERPRETED,
    MOMENTUM,
    STATISTICS,
    TOLERANCE,
    change,
    check,
    draw_all,
    expect,
    layouts,
    modes,
    poisoned,
    run,
    runs_kernels,
    tensors_of,
)
from tests.support.paths import ROOT

pytest.importorskip('triton', reason='Triton is not installed')
__all__ = ['poisoned']  # a fixture of every test here


# affine, tracked, relu, residual
END_OF_BLOCK, NORM_ACT, PLAIN = (True, True, True, True), (False, True, True, False), (True, False, False, False)
ANY_OPTIONS = st.tuples(*[st.booleans()] * 4)
ANY_SHAPE = st.tuples(*(st.integers(1, size) for size in (9, 70, 40, 40)))
# what fills each kind of tile, by layout; with all options only the first
KINDS = {
    torch.contiguous_format: [((8, 70), [(8, 11), (16, 24)]), ((1, 40), [(7, 7), (5, 9)]), ((1, 70), [(1, 1), (3, 5)])],
    torch.channels_last: [((3, 9), [(5, 9), (16, 24)]), ((1, 7), [(7, 7), (5, 9)]), ((9, 31), [(1, 2), (3, 5)])]}


@st.composite
def few_kinds(draw_from, layout):
    kind = draw_from(st.integers(0, 2))
    (fewest, most), images = KINDS[layout][kind]
    c = draw_from(st.integers(fewest, most))
    if layout == torch.channels_last:
        c = 8 * c if kind == 0 else 2 * c + 1  # divisible by 8, or odd
    shape = draw_from(st.integers(1, 9)), c, *draw_from(st.sampled_from(images))
    return shape, draw_from(st.sampled_from([END_OF_BLOCK, NORM_ACT, PLAIN])) if kind == 0 else END_OF_BLOCK


@runs_kernels
@modes
@layouts
@settings(max_examples=40 if CUDA else 6, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), seed=st.integers(0, 99))
def test_any_shape(training, layout, data, seed):
    drawn = few_kinds(layout) if CUDA else st.tuples(ANY_SHAPE, ANY_OPTIONS)
    (b, c, h, w), (affine, tracked, relu, residual) = data.draw(drawn)
    if not CUDA:  # the interpreter is slow
        c = min(c, max(1, 5_000 // (h * w)))
        b = min(b, max(1, 5_000 // (c * h * w)))
    if training and b * h * w == 1:
        b = 2
    args = draw_all((b, c, h, w), seed, affine, tracked or not training, residual)
    check(*tensors_of(args, layout), training, relu)


@runs_kernels
@modes
@layouts
def test_rows_shared_by_programs(monkeypatch, training, layout):
    tensors, values = tensors_of(draw_all((2, 3, 30, 36)), layout)
    results = []
    for programs in (1, 24):
        change(monkeypatch, FUSED_TILES=2, REDUCERS=programs)
        results.append(check(tensors, values, training))
    assert backend._cut(tensors['x'])[1].reduction.parts > 1
    assert not torch.equal(results[0]['dx'], results[1]['dx']), 'the sums were not split'


@runs_kernels
@modes
@pytest.mark.parametrize('shape', [(9, 11, 2, 1), (20, 3, 1, 1), (5, 65, 1, 3)])
@pytest.mark.parametrize('merged, single', [(128, 99), (128, 1)], ids=['one program', 'groups'])
def test_more_instances_than_are_merged_at_a_time(monkeypatch, training, shape, merged, single):
    change(monkeypatch, MERGED=merged, SINGLE=single)
    tensors, values = tensors_of(draw_all(shape))
    plan = backend._cut(tensors['x'])[1]
    assert plan.merging['CHUNK'] < shape[0] and (plan.rows > shape[0] + 1) == (single == 1)
    check(tensors, values, training)


@runs_kernels
@layouts
def test_groups_of_parts(monkeypatch, layout):
    """Entries of several parts of different length in one group, the last group smaller than the others."""
    change(monkeypatch, MERGED=64 if layout == torch.contiguous_format else 256, SINGLE=1, REDUCERS=40)
    tensors, values = tensors_of(draw_all((5, 3, 30, 33)), layout)
    plan = backend._cut(tensors['x'])[1]
    entries = 5 * plan.reduction.parts
    assert plan.reduction.parts > 1 and 1 < plan.group < entries and entries % plan.group
    check(tensors, values, True)


@runs_kernels
@modes
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dy_layout', ['contiguous', 'channels_last', 'expanded'])
def test_memory_layout(training, layout, dy_layout):
    args = draw_all((5, 7, 7, 3))
    if dy_layout == 'expanded':  # the gradient of a sum
        args['dy'] = np.ones_like(args['dy'])
    tensors, values = tensors_of(args)
    change = {'contiguous': torch.clone, 'expanded': lambda dy: dy[:1, :1, :1, :1].expand(dy.shape), **LAYOUTS}
    other = 'contiguous' if dy_layout == 'channels_last' else 'channels_last'
    changed = {'x': LAYOUTS[layout](tensors['x']), 'dy': change[dy_layout](tensors['dy']),
               'residual': change[other](tensors['residual'])}
    actual = check(tensors | changed, values, training)
    expected = torch.channels_last if layout == 'channels_last' else torch.contiguous_format
    assert all(actual[k].is_contiguous(memory_format=expected) for k in ('y', 'dx', 'd_residual'))


@runs_kernels
@modes
@layouts
@pytest.mark.parametrize('dtype, parameter_dtype, residual', [
    (torch.bfloat16, torch.float32, False), (torch.float16, torch.float16, True)], ids=str)
def test_narrow_types(training, layout, dtype, parameter_dtype, residual):
    """Arithmetic in float32, one rounding of what is returned; results in the dtypes of what they belong to."""
    tensors, values = tensors_of(draw_all((3, 24, 9, 7), residual=residual), layout, dtype, parameter_dtype)
    actual = run(tensors, training)
    for name, value in expect(values, training).items():
        assert actual[name].dtype == (dtype if name in ('y', 'dx', 'd_residual') else parameter_dtype), name
        rounding = 0 if actual[name].dtype == torch.float32 else torch.finfo(dtype).eps / 2
        if INTERPRETED and dtype == torch.bfloat16:
            rounding *= 2  # the interpreter cuts bfloat16 off, a GPU rounds to the nearest
        excess = np.abs(actual[name].double().cpu().numpy() - value) - 1.01 * rounding * np.abs(value)
        assert excess.max() <= TOLERANCE * (1 + np.abs(value).max()), name


@runs_kernels
@layouts
@pytest.mark.parametrize('shape', [(8, 3, 16, 16), (16, 3, 1, 5), (1, 3, 96, 96)])
@pytest.mark.parametrize('mean', [1e3, -3e4])
def test_large_mean(layout, shape, mean):
    """Where E[x²] - E[x]² would lose the variance, ours is as good as that of torch.nn.functional.batch_norm."""
    torch.manual_seed(0)
    c = shape[1]
    x = (torch.randn(shape) + mean).contiguous(memory_format=layout)
    bn_mean, bn_var = torch.zeros(c), torch.ones(c)
    bn_y = F.batch_norm(x, bn_mean, bn_var, training=True, momentum=1.0)
    numbers = (0.0, 1.0, 1.0, 0.0, 1e-4, -1.0)  # running statistics, weight, bias, gate_weight, gate_bias
    device = [x.to(DEVICE), *(torch.full((c,), number, device=DEVICE) for number in numbers)]
    y, saved = backend.forward(*device, training=True, momentum=1.0, eps=EPS, relu=False)
    mu, var = backend.statistics(saved, EPS)
    exact = x.double()
    exact_bn = F.batch_norm(exact, None, None, training=True)
    exact_mean, exact_var = exact.mean((0, 2, 3)), exact.transpose(0, 1).reshape(c, -1).var(1)

    def worst(value, expected):
        return (value.double().cpu() - expected).abs().max().item()

    assert worst(y, exact_bn * torch.sigmoid(1e-4 * exact.mean((2, 3), keepdim=True) - 1)) <= 2 * worst(bn_y, exact_bn)
    assert max(worst(device[1], exact_mean), worst(mu, exact_mean)) <= 2 * worst(bn_mean, exact_mean)
    assert worst(device[2], exact_var) <= 2 * worst(bn_var, exact_var) + 1e-6
    assert worst(var, exact.var((0, 2, 3), correction=0)) <= 2 * worst(bn_var, exact_var) + 1e-6


@runs_kernels
@layouts
def test_outlier_tile(layout):
    """The first tile of a row is far from all others: the sums are taken about a bad centre."""
    args = draw_all((2, 3, 24, 64))
    args['x'][:, :, :4] += 1e3
    args['gate_weight'] *= 1e-2
    check(*tensors_of(args, layout), True)


@runs_kernels
@layouts
def test_constant_channel(layout):
    """Variance 0: a rounding error below 0 must not reach the square root."""
    args = draw((3, 5, 33, 32))
    args['x'][:] = 1234.567
    tensors, _ = tensors_of(args, layout)
    old_var, bias = tensors['running_var'].clone(), tensors['bias']
    del tensors['dy']
    y, _ = backend.forward(**tensors, training=True, momentum=MOMENTUM, eps=EPS, relu=False)
    assert (y - bias[:, None, None]).abs().max() < 0.2
    assert torch.allclose(tensors['running_var'], (1 - MOMENTUM) * old_var, atol=1e-6)


@runs_kernels
@modes
@layouts
@pytest.mark.parametrize('value', [torch.inf, -torch.inf, torch.nan], ids=str)
def test_non_finite_values(training, layout, value):
    """They spread as in batch_norm with ReLU, and as in the reference by running statistics; ReLU keeps a NaN."""
    tensors, _ = tensors_of(draw_all((2, 3, 17, 32)), layout)
    tensors['x'][1, 2, 7, 5] = value
    tensors['residual'].zero_()
    parameters = [tensors[k].clone() for k in (*STATISTICS, 'weight', 'bias')]
    if training:
        expected = F.batch_norm(tensors['x'], *parameters, training=True, momentum=MOMENTUM).relu()
    else:
        gate = tensors['gate_weight'], tensors['gate_bias']
        expected = reference.ie_batch_norm(tensors['x'], *parameters, *gate, training=False).relu()
    actual = run(tensors, training)
    assert torch.equal(actual['y'].isnan(), expected.isnan()) and torch.equal(actual['y'].isinf(), expected.isinf())
    for name, other in zip(STATISTICS, parameters, strict=False):
        assert torch.equal(actual[name].isfinite(), other.isfinite()), name


@runs_kernels
@layouts
@pytest.mark.parametrize('residual', [False, True], ids=['alone', 'residual'])
def test_relu_has_no_gradient_at_0(layout, residual):
    args = draw_all((2, 24, 9, 16), affine=residual, residual=residual)
    args['x'][:] = args['running_mean'][:, None, None]
    if residual:
        args['residual'][:] = -args['bias'][:, None, None].astype(np.float32)
    tensors, _ = tensors_of(args, layout)
    actual = run(tensors, False)
    assert all(not actual[name].any() for name in ('y', *GRADIENTS) if actual.get(name) is not None)
    tensors['x'] += 1
    assert run(tensors, False)['dx'].any()


@runs_kernels
@modes
def test_gradients_that_nobody_needs(training):
    tensors, _ = tensors_of(draw_all((3, 5, 6, 7)))
    every = run(tensors, training)
    for wanted in range(6):
        needs = Needs(*(i == wanted for i in range(6)))
        some = run(tensors, training, needs=needs)
        for name, needed in zip(GRADIENTS, needs, strict=True):
            assert torch.equal(some[name], every[name]) if needed else some[name] is None


@runs_kernels
@modes
@layouts
def test_two_runs_give_the_same_bits(training, layout):
    tensors, _ = tensors_of(draw_all((8, 65, 60, 62) if CUDA else (2, 5, 17, 31)), layout)
    before = {k: v.clone() for k, v in tensors.items()}
    first, second = run(tensors, training), run(tensors, training)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert all(torch.equal(tensors[k], before[k]) for k in tensors), 'an argument was written to'
    assert training or all(torch.equal(first[k], tensors[k]) for k in STATISTICS), 'statistics moved in eval'
    assert first['y']._base is None, 'a view would break an in-place activation behind the layer'


@pytest.mark.skipif(not INTERPRETED, reason='a GPU chooses the order itself')
@layouts
def test_order_of_arrival(monkeypatch, layout):
    """Another program is the last of each group, and of all: the same bits, and running statistics move once."""
    from triton.runtime.interpreter import interpreter_builder
    change(monkeypatch, MERGED=64, SINGLE=1)
    tensors, _ = tensors_of(draw_all((9, 3, 9, 8)), layout)
    forwards, become = run(tensors, True), interpreter_builder.set_grid_idx
    monkeypatch.setattr(
        interpreter_builder, 'set_grid_idx', lambda x, y, z: become(interpreter_builder.grid_dim[0] - 1 - x, y, z))
    plan = backend._cut(tensors['x'])[1]
    assert plan.rows > 9 * plan.reduction.parts + 1
    backwards = run(tensors, True)
    assert all(torch.equal(forwards[k], backwards[k]) for k in forwards)


@pytest.mark.skipif(not CUDA, reason='no GPU')
@layouts
def test_more_than_2_to_the_32_values(layout):
    with much_memory(32):
        check_the_last_of_many(layout)


def check_the_last_of_many(layout):
    tensors, _ = tensors_of(draw((1, 64, 1, 1)), dtype=torch.float16)
    x = torch.zeros(17, 64, 2048, 2048, dtype=torch.float16, device=DEVICE).contiguous(memory_format=layout)
    x[-1].normal_()
    tensors = {k: v for k, v in tensors.items() if k not in ('x', 'dy')}
    options = dict(training=False, momentum=0.0, eps=EPS, relu=False)
    last = backend.forward(x[-1:].clone(memory_format=layout), **tensors, **options)[0]
    torch.testing.assert_close(backend.forward(x, **tensors, **options)[0][-1:], last)


@pytest.mark.skipif(CUDA or INTERPRETED, reason='the kernels run in this process')
def test_in_the_interpreter():
    environment = {k: v for k, v in os.environ.items() if not k.startswith('PYTEST_')} | {'TRITON_INTERPRET': '1'}
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-p', 'no:xdist', __file__,
         str(Path(__file__).with_name('test_triton_dispatch.py'))],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.search(r'(\d+) passed', result.stdout)[1]) >= 80, result.stdout
