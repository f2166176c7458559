"""Values and modes at the edge: not finite, empty, constant, unwritten memory, repeated runs, a hundred steps."""
import pytest
import torch
import torch.nn.functional as F

from iebn_zoo import IEBatchNorm2d, ops
from iebn_zoo.ops import passes
from tests.ops.test_reference import PARAMETERS, draw

modes = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
layouts = pytest.mark.parametrize(
    'memory_format', [torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc'])
dtypes = pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
SHAPES = [(5, 6, 4, 3), (3, 4, 17, 16), (2, 3, 1, 1), (2, 800, 7, 6), (2, 700, 30, 40)]


def run(shape, dtype, memory_format, training, relu=False, residual=False):
    args = {k: torch.from_numpy(v).to(torch.float64 if dtype == torch.float64 else torch.float32)
            for k, v in draw(shape).items()}
    x, dy = (args.pop(k).to(dtype).contiguous(memory_format=memory_format) for k in ('x', 'dy'))
    x.requires_grad_()
    leaves = {k: args[k].requires_grad_() for k in PARAMETERS}
    y = ops.ie_batch_norm(x, **args, training=training, relu=relu, residual=dy if residual else None)
    assert type(y.grad_fn).__name__ == 'IEBatchNormFunctionBackward'  # the closed form
    y.backward(dy)
    return [y.detach(), x.grad, *(v.grad for v in leaves.values()), args['running_mean'], args['running_var']]


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@modes
@layouts
@dtypes
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('relu, residual', [(False, False), (True, False), (True, True)])
def test_no_value_comes_from_unwritten_memory(deterministic, shape, dtype, memory_format, training, relu, residual):
    """Deterministic mode fills every fresh tensor with NaN; the values are those of the ordinary mode, bit for bit."""
    assert torch.empty(2).isnan().all()
    poisoned = run(shape, dtype, memory_format, training, relu, residual)
    torch.use_deterministic_algorithms(False)
    for a, b in zip(poisoned, run(shape, dtype, memory_format, training, relu, residual), strict=True):
        assert torch.equal(a, b) and not a.isnan().any()


@modes
@layouts
@dtypes
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('relu, residual', [(False, False), (True, False), (True, True)])
def test_a_default_device_changes_nothing(shape, dtype, memory_format, training, relu, residual):
    """The meta device stands for a GPU: what is made there cannot be computed with a CPU tensor, and has no values."""
    expected = run(shape, dtype, memory_format, training, relu, residual)
    with torch.device('meta'):
        assert torch.empty(0).is_meta
        actual = run(shape, dtype, memory_format, training, relu, residual)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


@pytest.fixture(params=[True, False], ids=['small', 'large'])
def small(request, monkeypatch):
    """Tensors of this size take the passes of small tensors, or those of large ones."""
    if not request.param:
        monkeypatch.setattr(passes, '_SMALL', 0)


@layouts
@pytest.mark.parametrize('shape', [(3, 4, 9, 9), (3, 4, 5, 5), (1, 4, 9, 9)])
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('relu', [False, True])
def test_what_is_not_finite_propagates_as_in_batch_norm(small, memory_format, shape, value, relu):
    x = torch.randn(shape).contiguous(memory_format=memory_format)
    x[-1, 2, 3, 4] = value
    statistics = [torch.zeros(4), torch.ones(4)]
    expected_statistics = [torch.zeros(4), torch.ones(4)]
    ones = torch.ones(4)
    y = ops.ie_batch_norm(x, *statistics, ones, ones, ones, ones, training=True, relu=relu)
    expected = F.batch_norm(x, *expected_statistics, ones, ones, True)
    assert torch.equal(y.isnan(), (F.relu(expected) if relu else expected).isnan())
    for a, b in zip(statistics, expected_statistics, strict=True):
        assert torch.equal(a.isfinite(), b.isfinite())
    y = ops.ie_batch_norm(x, torch.zeros(4), ones, ones, ones, ones, ones, relu=relu)
    formula = ops.reference.ie_batch_norm(x, torch.zeros(4), ones, ones, ones, ones, ones)
    torch.testing.assert_close(y, F.relu(formula) if relu else formula, equal_nan=True)


@layouts
@modes
@pytest.mark.parametrize('place', ['weight', 'bias', 'gate_weight', 'gate_bias', 'residual'])
def test_a_nan_elsewhere_propagates(small, memory_format, training, place):
    """The one-pass ReLU of torch makes 0 of NaN."""
    args = {k: torch.from_numpy(v).float() for k, v in draw((3, 4, 9, 9)).items()}
    args['residual'] = args.pop('dy')
    for name in ('x', 'residual'):
        args[name] = args[name].contiguous(memory_format=memory_format)
    args[place].select(0 if args[place].dim() == 1 else 1, 2).fill_(float('nan'))
    for residual in (True, False) if place != 'residual' else (True,):
        given = args if residual else {k: v for k, v in args.items() if k != 'residual'}
        y = ops.ie_batch_norm(**given, training=training, relu=True)
        assert y[:, 2].isnan().all() and y.isnan().sum() == y[:, 2].numel()


@modes
def test_empty_batch(training):
    """As nn.BatchNorm2d: an empty output; in training, statistics that are as undefined as there."""
    layer, bn = IEBatchNorm2d(3).train(training), torch.nn.BatchNorm2d(3).train(training)
    x, z = (torch.empty(0, 3, 4, 4, requires_grad=True) for _ in range(2))
    y, expected = layer(x), bn(z)
    assert y.shape == expected.shape
    y.sum().backward()
    expected.sum().backward()
    assert x.grad.shape == z.grad.shape
    for name in ('running_mean', 'running_var'):
        torch.testing.assert_close(getattr(layer.bn, name), getattr(bn, name), equal_nan=True)
    for parameter in layer.parameters():
        assert torch.equal(parameter.grad, torch.zeros(3))


@modes
@pytest.mark.parametrize('x, said', [
    (torch.ones(2, 3, 4, 4, dtype=torch.int32), 'an input of dtype torch.int32'),
    (torch.ones(2, 3, 4, 4).to(torch.float8_e5m2), 'an input of dtype torch.float8_e5m2'),
    (torch.ones(2, 3, 4, 0), 'an input of 4x0 pixels')], ids=['int', 'float8', 'no_pixel'])
def test_what_cannot_be_normalized_is_refused_and_changes_nothing(training, x, said):
    statistics, count = [torch.zeros(3), torch.ones(3)], torch.tensor(0)
    with pytest.raises(ValueError, match=f'^{said} .*IEBN expects'):
        ops.ie_batch_norm(x, *statistics, None, None, *statistics, training, num_batches_tracked=count)
    assert count == 0 and not statistics[0].any() and bool((statistics[1] == 1).all())


@layouts
@pytest.mark.parametrize('scale, offset', [(0, 0), (0, 3), (1e-4, 1), (1e-6, 0), (1e-20, 0), (1e18, 0), (1, 1e5)])
@pytest.mark.parametrize('size', [16, 7])
def test_variance_is_as_good_as_that_of_batch_norm(monkeypatch, memory_format, scale, offset, size):
    monkeypatch.setattr(passes, '_SMALL', 0)
    torch.manual_seed(1)
    x = (torch.randn(4, 5, size, size) * scale + offset).contiguous(memory_format=memory_format)
    exact = x.double().transpose(0, 1).flatten(1).var(1)
    found = []
    for f in (lambda m, v: ops.ie_batch_norm(x, m, v, *[torch.ones(5)] * 4, training=True, momentum=1.0),
              lambda m, v: F.batch_norm(x, m, v, training=True, momentum=1.0)):
        mean, var = torch.zeros(5), torch.ones(5)
        y = f(mean, var)
        assert y.isfinite().all()
        found.append((var.double() - exact).abs().max())
    assert found[0] <= 2 * found[1] + 1e-6 * exact.max() + 1e-30, found


def test_some_channels_with_a_large_mean():
    """Only those take the two-pass variance, and the others keep theirs."""
    x = torch.randn(4, 8, 16, 16) + torch.tensor([0, 1e3, 0, 0, 0, 50, 0, 0])[:, None, None]
    mean, var = torch.zeros(8), torch.zeros(8)
    ops.ie_batch_norm(x, mean, var, *[torch.ones(8)] * 4, training=True, momentum=1.0)
    exact = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(var.double(), exact.var(1), atol=0, rtol=2e-6)
    torch.testing.assert_close(mean.double(), exact.mean(1), atol=1e-6, rtol=1e-6)


@layouts
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_running_statistics_after_a_hundred_steps(memory_format, dtype):
    layer, bn = IEBatchNorm2d(7), torch.nn.BatchNorm2d(7)
    torch.manual_seed(0)
    for _ in range(100):
        x = (torch.randn(4, 7, 17, 16) * 2 + 1).to(dtype).contiguous(memory_format=memory_format)
        layer(x), bn(x)
    for name in ('running_mean', 'running_var'):
        torch.testing.assert_close(getattr(layer.bn, name), getattr(bn, name), atol=1e-6, rtol=1e-6)


@modes
@layouts
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_on_two_runs(memory_format, dtype, training):
    for a, b in zip(*(run((4, 5, 17, 16), dtype, memory_format, training, True, True) for _ in range(2)), strict=True):
        assert torch.equal(a, b)
