"""The Triton backend: on the GPU or, where there is none, in Triton's interpreter; and compiled for a GPU anywhere.

Interpretation has to be chosen before Triton is first imported, which timm does: these tests then run in a process of
their own, which ``test_in_the_interpreter`` starts. The interpreter computes in numpy what the kernels say; that a
compiler takes them, vectorizes them and specializes them no further than meant, the compile-only tests show.
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
from tests.ops import oracle
from tests.ops.test_reference import LAYOUTS, draw

pytest.importorskip('triton', reason='Triton is not installed')

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
CUDA = torch.cuda.is_available() and not INTERPRETED
DEVICE = 'cuda' if CUDA else 'cpu'
MOMENTUM, EPS = 0.3, 1e-5
GRADIENTS = ('dx', 'd_weight', 'd_bias', 'd_gate_weight', 'd_gate_bias')
STATISTICS = ('running_mean', 'running_var')
# arithmetic of a few thousand float32 terms, relative to the largest value of a result
TOLERANCE = 5e-6
runs_kernels = pytest.mark.skipif(
    not (CUDA or INTERPRETED), reason='no GPU: test_in_the_interpreter runs these in a process of their own')
compiles = pytest.mark.skipif(INTERPRETED, reason='the interpreter compiles nothing')
modes = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
layouts = pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc'])


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """What ``torch.empty`` returns is NaN, so that a value that is not written shows. One SM, whatever the GPU."""
    for name in ('empty', 'empty_like'):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *args, make=make, **options: make(*args, **options).fill_(torch.nan))
    monkeypatch.setattr(backend, 'sm_count', lambda device: 1)


def tensors_of(args, layout=torch.contiguous_format, dtype=torch.float32, parameter_dtype=torch.float32):
    """Tensors on the device, and the float64 values that they really have."""
    dtypes = {k: dtype if k in ('x', 'dy') else parameter_dtype for k in args}
    tensors = {k: None if v is None else torch.from_numpy(v).to(DEVICE, dtypes[k]) for k, v in args.items()}
    tensors['x'] = tensors['x'].contiguous(memory_format=layout)
    return tensors, {k: None if v is None else v.double().cpu().numpy() for k, v in tensors.items()}


def run(tensors, training, relu=False, needs=(True,) * 5):
    tensors = tensors | {k: tensors[k].clone() for k in STATISTICS if tensors[k] is not None}
    dy = tensors.pop('dy')
    y, saved = backend.forward(**tensors, training=training, momentum=MOMENTUM, eps=EPS, relu=relu)
    x, weight, bias, gate_weight = (tensors[k] for k in ('x', 'weight', 'bias', 'gate_weight'))
    gradients = backend.backward(dy, x, saved, weight, bias, gate_weight, training, EPS, relu, needs)
    return {'y': y, **dict(zip(GRADIENTS, gradients, strict=True)), **{k: tensors[k] for k in STATISTICS}}


def expect(values, training, relu=False):
    options = dict(training=training, momentum=MOMENTUM, eps=EPS)
    expected = oracle.ie_batch_norm(**values, **options)
    if relu:
        passed = expected['y'] > 0
        expected = oracle.ie_batch_norm(**{**values, 'dy': values['dy'] * passed}, **options)
        expected['y'] *= passed
    return expected


def check(tensors, values, training, relu=False):
    actual = run(tensors, training, relu)
    for name, value in expect(values, training, relu).items():
        if actual[name] is None:
            assert tensors[name.removeprefix('d_')] is None, name
            continue
        error = np.abs(actual[name].cpu().numpy() - value).max() / (1 + np.abs(value).max())
        assert error <= TOLERANCE, f'{name}: {error:.1e}'
    return actual


@runs_kernels
@modes
@layouts
@settings(max_examples=40 if CUDA else 6, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(b=st.integers(1, 9), c=st.integers(1, 70), h=st.integers(1, 40), w=st.integers(1, 40), seed=st.integers(0, 99),
       affine=st.booleans(), tracked=st.booleans(), relu=st.booleans())
def test_any_shape(training, layout, b, c, h, w, seed, affine, tracked, relu):
    if not CUDA:  # the interpreter is slow
        c = min(c, max(1, 5_000 // (h * w)))
        b = min(b, max(1, 5_000 // (c * h * w)))
    if training and b * h * w == 1:
        w = 2
    check(*tensors_of(draw((b, c, h, w), seed, affine, tracked or not training), layout), training, relu)


@runs_kernels
@modes
@layouts
def test_rows_shared_by_programs(monkeypatch, training, layout):
    tensors, values = tensors_of(draw((2, 2, 60, 72)), layout)
    monkeypatch.setattr(backend, 'FUSED_TILES', 2)
    results = []
    for programs in (1, 3, 64):
        monkeypatch.setattr(backend, 'REDUCERS', programs)
        results.append(check(tensors, values, training, relu=True))
    assert backend._cut(tensors['x'])[1].share(3, backend.MAX_PARTS)[1] > 1
    assert not torch.equal(results[0]['dx'], results[1]['dx']), 'the sums were not split'


@runs_kernels
@modes
@pytest.mark.parametrize('shape', [(9, 11, 2, 1), (4, 8, 1, 1), (3, 17, 1, 3)])
def test_more_instances_and_channels_than_are_merged_at_a_time(monkeypatch, training, shape):
    monkeypatch.setattr(backend, 'MERGE', {**backend.MERGE, 'BLOCK_B': 4})
    check(*tensors_of(draw(shape)), training)


@runs_kernels
@modes
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dy_layout', ['contiguous', 'channels_last', 'expanded'])
def test_memory_layout(training, layout, dy_layout):
    args = draw((5, 6, 7, 3))
    if dy_layout == 'expanded':  # the gradient of a sum
        args['dy'] = np.ones_like(args['dy'])
    tensors, values = tensors_of(args)
    change = {'contiguous': torch.clone, 'expanded': lambda dy: dy[:1, :1, :1, :1].expand(dy.shape), **LAYOUTS}
    changed = {'x': LAYOUTS[layout](tensors['x']), 'dy': change[dy_layout](tensors['dy'])}
    actual = check(tensors | changed, values, training)
    expected = torch.channels_last if layout == 'channels_last' else torch.contiguous_format
    assert all(actual[k].is_contiguous(memory_format=expected) for k in ('y', 'dx'))


@runs_kernels
@modes
@layouts
@pytest.mark.parametrize('parameters', ['wide', 'narrow'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_narrow_types(training, layout, parameters, dtype):
    """Arithmetic in float32, one rounding of what is returned; results in the dtypes of what they belong to."""
    parameter_dtype = torch.float32 if parameters == 'wide' else dtype
    tensors, values = tensors_of(draw((3, 24, 9, 7)), layout, dtype, parameter_dtype)
    actual = run(tensors, training, relu=True)
    for name, value in expect(values, training, relu=True).items():
        assert actual[name].dtype == (dtype if name in ('y', 'dx') else parameter_dtype), name
        rounding = 0 if actual[name].dtype == torch.float32 else torch.finfo(dtype).eps / 2
        if INTERPRETED and dtype == torch.bfloat16:
            rounding *= 2  # the interpreter cuts bfloat16 off, a GPU rounds to the nearest
        excess = np.abs(actual[name].double().cpu().numpy() - value) - 1.01 * rounding * np.abs(value)
        assert excess.max() <= TOLERANCE * (1 + np.abs(value).max()), name


@runs_kernels
@layouts
@pytest.mark.parametrize('shape', [(8, 4, 16, 16), (16, 3, 1, 5), (1, 2, 96, 96)])
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
    args = draw((2, 4, 64, 64))
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
    actual = run(tensors, True)
    assert (actual['y'] - tensors['bias'][:, None, None]).abs().max() < 0.2
    assert torch.allclose(actual['running_var'], (1 - MOMENTUM) * tensors['running_var'], atol=1e-6)


@runs_kernels
@modes
@layouts
@pytest.mark.parametrize('value', [torch.inf, -torch.inf, torch.nan], ids=str)
def test_non_finite_values(training, layout, value):
    """They spread as in batch_norm with ReLU, and as in the reference by running statistics; ReLU keeps a NaN."""
    tensors, _ = tensors_of(draw((3, 4, 33, 32)), layout)
    tensors['x'][1, 2, 7, 5] = value
    parameters = [tensors[k].clone() for k in (*STATISTICS, 'weight', 'bias')]
    if training:
        expected = F.batch_norm(tensors['x'], *parameters, training=True, momentum=MOMENTUM).relu()
    else:
        gate = tensors['gate_weight'], tensors['gate_bias']
        expected = reference.ie_batch_norm(tensors['x'], *parameters, *gate, training=False).relu()
    actual = run(tensors, training, relu=True)
    assert torch.equal(actual['y'].isnan(), expected.isnan()) and torch.equal(actual['y'].isinf(), expected.isinf())
    for name, other in zip(STATISTICS, parameters, strict=False):
        assert torch.equal(actual[name].isfinite(), other.isfinite()), name


@runs_kernels
@layouts
def test_relu_has_no_gradient_at_0(layout):
    args = draw((2, 4, 5, 5))
    args['x'][:] = args['running_mean'][:, None, None]
    args['bias'][:] = 0
    tensors, _ = tensors_of(args, layout)
    actual = run(tensors, False, relu=True)
    assert all(not actual[name].any() for name in ('y', *GRADIENTS))
    assert run(tensors, False)['d_bias'].all()


@runs_kernels
@modes
def test_gradients_that_nobody_needs(training):
    tensors, _ = tensors_of(draw((3, 5, 6, 7)))
    every = run(tensors, training)
    for wanted in range(5):
        needs = tuple(i == wanted for i in range(5))
        some = run(tensors, training, needs=needs)
        for name, needed in zip(GRADIENTS, needs, strict=True):
            assert torch.equal(some[name], every[name]) if needed else some[name] is None


@runs_kernels
@modes
@layouts
def test_two_runs_give_the_same_bits(training, layout):
    tensors, _ = tensors_of(draw((8, 66, 60, 61) if CUDA else (2, 5, 30, 31)), layout)
    before = {k: v.clone() for k, v in tensors.items()}
    first, second = run(tensors, training, True), run(tensors, training, True)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert all(torch.equal(tensors[k], before[k]) for k in tensors), 'an argument was written to'
    assert training or all(torch.equal(first[k], tensors[k]) for k in STATISTICS), 'statistics moved in eval'
    assert first['y']._base is None, 'a view would break an in-place activation behind the layer'


@pytest.mark.skipif(not CUDA, reason='no GPU')
@layouts
def test_more_than_2_to_the_32_values(layout):
    if torch.cuda.mem_get_info()[0] < 32e9:
        pytest.skip('needs 32 GB of free GPU memory')
    tensors, _ = tensors_of(draw((1, 64, 1, 1)), dtype=torch.float16)
    x = torch.zeros(17, 64, 2048, 2048, dtype=torch.float16, device=DEVICE).contiguous(memory_format=layout)
    x[-1].normal_()
    tensors = {k: v for k, v in tensors.items() if k not in ('x', 'dy')}
    options = dict(training=False, momentum=0.0, eps=EPS, relu=False)
    last = backend.forward(x[-1:].clone(memory_format=layout), **tensors, **options)[0]
    torch.testing.assert_close(backend.forward(x, **tensors, **options)[0][-1:], last)


def test_what_is_supported():
    x, narrow = torch.zeros(2, 3, 4, 4, device=DEVICE), torch.zeros(3, device=DEVICE, dtype=torch.float16)
    assert backend.supports(x) == backend.supports(x.half(), None, narrow) == CUDA
    for refused in [(x.double(),), (x[:0],), (x, narrow.double()), (x, narrow.cpu()), (x, narrow.new_zeros(6)[::2])]:
        assert not backend.supports(*refused)


@pytest.fixture
def compiled(monkeypatch):
    """Launches compile for an H100 and do not run: {kernel name: what Triton compiled}, also where there is no GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class CompileOnly:
        get_current_device = get_current_stream = staticmethod(lambda *_: 0)
        get_current_target = staticmethod(lambda: GPUTarget('cuda', 90, 32))

    results, launch = {}, JITFunction.run

    def compile_only(self, *args, grid, warmup, **options):
        results[self.fn.__name__] = launch(self, *args, grid=grid, warmup=True, **options)

    monkeypatch.setattr(JITFunction, 'run', compile_only)
    monkeypatch.setattr(driver, '_active' if hasattr(driver, '_active') else 'active', CompileOnly())  # new, old Triton
    return results


@compiles
@layouts
def test_compiled_for_a_gpu(compiled, monkeypatch, layout):
    """All kernels compile; those over all of x have vector loads and stores of 16 bytes; new sizes compile nothing."""
    monkeypatch.setattr(backend, 'sm_count', lambda device: 132)
    first = {}
    for shape in [(2, 64, 96, 96), (1, 64, 96, 96), (5, 64, 128, 80), (3, 80, 128, 96)]:
        tensors, _ = tensors_of(draw(shape), layout, torch.float16)
        run(tensors, True)
        run(tensors, False)
        first = first or dict(compiled)
        assert all(compiled[name] is first[name] for name in first), shape
    assert len(first) == 7
    for name in ('instance_statistics', 'instance_sums', 'gradient_sums', 'normalize', 'input_gradient'):
        assert 'ld.global.v4' in first[name].asm['ptx'], name
    assert all('st.global.v4' in first[name].asm['ptx'] for name in ('normalize', 'input_gradient'))


@compiles
def test_a_gpu_on_which_nothing_can_be_launched(compiled, monkeypatch):
    def usable(capability):
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
        backend.usable.cache_clear()
        return backend.usable(torch.device('cpu'))

    assert usable((8, 0)) and compiled and not usable((7, 5))
    monkeypatch.setattr('triton.runtime.jit.JITFunction.run', None)
    with pytest.warns(UserWarning, match='plain torch operations.* needs a C compiler'):
        assert not usable((8, 0))
    backend.usable.cache_clear()


@pytest.mark.skipif(CUDA or INTERPRETED, reason='the kernels run in this process')
def test_in_the_interpreter():
    environment = {k: v for k, v in os.environ.items() if not k.startswith('PYTEST_')} | {'TRITON_INTERPRET': '1'}
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-p', 'no:xdist', __file__],
        cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.search(r'(\d+) passed', result.stdout)[1]) >= 60, result.stdout
