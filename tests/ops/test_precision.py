"""Low precision and badly conditioned input, against float64 and against nn.BatchNorm2d."""
import pytest
import torch
import torch.nn.functional as F

from iebn_zoo import ops
from iebn_zoo.ops import passes
from tests.ops.test_reference import PARAMETERS, draw

IMPLEMENTATIONS = {
    'dispatch': ops.ie_batch_norm, 'reference': ops.reference.ie_batch_norm, 'composed': ops.composed.ie_batch_norm,
    'compiled': ops.compiled.ie_batch_norm}
implementations = pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
modes = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
# float32: arithmetic of a few hundred terms. The narrow types: arithmetic is float32, so one rounding of the result
# (eps / 2) for y; dx is the sum of two terms, each rounded before they are added
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2 ** -8, torch.float16: 2 ** -11}


def run(function, tensors, x, dy, training):
    x = x.detach().clone().requires_grad_()
    leaves = {k: tensors[k].detach().clone().requires_grad_() for k in PARAMETERS}
    stats = {k: tensors[k].clone() for k in ('running_mean', 'running_var')}
    y = function(x, **stats, **leaves, training=training)
    y.backward(dy)
    return {'y': y.detach(), 'x': x.grad, **{k: v.grad for k, v in leaves.items()}}, stats


def run_exact(tensors, x, dy, training):
    tensors = {k: v.double() for k, v in tensors.items()}
    return run(ops.reference.ie_batch_norm, tensors, x.double(), dy.double(), training)[0]


@implementations
@modes
@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc'])
def test_narrow_input_wide_parameters(implementation, training, dtype, memory_format):
    wide = {k: torch.from_numpy(v).float() for k, v in draw((6, 5, 9, 7)).items()}
    x, dy = (wide.pop(k).to(dtype).contiguous(memory_format=memory_format) for k in ('x', 'dy'))
    exact = run_exact(wide, x, dy, training)
    actual, stats = run(IMPLEMENTATIONS[implementation], wide, x, dy, training)
    assert actual['y'].dtype == actual['x'].dtype == dtype
    assert stats['running_mean'].dtype == torch.float32
    for name, value in actual.items():
        slack = {'y': 1.05, 'x': 4}.get(name, 1) * (TOLERANCE[dtype] if name in 'xy' else TOLERANCE[torch.float32])
        scale = exact[name].abs() if name == 'y' else exact[name].abs().max()
        error = (value.double() - exact[name]).abs()
        assert (error <= slack * scale + 2e-6).all(), f'{name}: {(error / scale.clamp_min(1e-3)).max():.1e}'


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@modes
def test_everything_narrow(training, dtype):
    """model.half(): parameters and statistics are narrow too, arithmetic still is float32."""
    narrow = {k: torch.from_numpy(v).to(dtype) for k, v in draw((6, 5, 9, 7)).items()}
    x, dy = narrow.pop('x'), narrow.pop('dy')
    exact = run_exact(narrow, x, dy, training)
    actual, stats = run(ops.ie_batch_norm, narrow, x, dy, training)
    for name, value in actual.items():
        assert value.dtype == dtype
        slack = 1.05 if name == 'y' else 4
        scale = exact[name].abs() if name == 'y' else exact[name].abs().max()
        assert ((value.double() - exact[name]).abs() <= slack * TOLERANCE[dtype] * scale + 2e-6).all(), name
    assert all(v.dtype == dtype for v in stats.values())


@implementations
@pytest.mark.parametrize('shape', [(8, 4, 16, 16), (32, 3, 1, 5), (2, 2, 64, 64)])
def test_large_mean(monkeypatch, implementation, shape):
    """mean / std = 1e3 in float32: E[x²] - E[x]² would lose the variance; ours is as good as BatchNorm2d's."""
    monkeypatch.setattr(passes, '_SMALL', 0)
    torch.manual_seed(0)
    x = torch.randn(shape) + 1e3
    c = shape[1]
    args = (torch.ones(c), torch.zeros(c), torch.full((c,), 1e-3), torch.full((c,), -1.0))
    exact = x.double()
    exact_var = exact.transpose(0, 1).reshape(c, -1).var(1)
    exact_y = ops.reference.ie_batch_norm(exact, None, None, *(a.double() for a in args), training=True)
    mean, var = torch.zeros(c), torch.ones(c)
    y = IMPLEMENTATIONS[implementation](x, mean, var, *args, training=True, momentum=1.0)
    bn_mean, bn_var = torch.zeros(c), torch.ones(c)
    bn_y = F.batch_norm(x, bn_mean, bn_var, training=True, momentum=1.0)
    exact_bn_y = F.batch_norm(exact, None, None, training=True)

    def worst(a, b):
        return (a.double() - b).abs().max().item()

    assert worst(var, exact_var) <= 2 * worst(bn_var, exact_var) + 1e-6
    assert worst(mean, exact.mean((0, 2, 3))) <= 2 * worst(bn_mean, exact.mean((0, 2, 3))) + 1e-4
    # 3: scale * x and the sum with shift are rounded one after the other, where batch_norm's kernel may fuse them
    assert worst(y, exact_y) <= 3 * worst(bn_y, exact_bn_y) + 1e-6


@pytest.mark.parametrize('interface', ['old', 'new'])
def test_sums_are_float32_where_products_may_round(interface):
    """Where a user lets products of matrices round to bfloat16, on a CPU that can; with the newer of torch's two
    interfaces for that, asking by the older one raises."""
    if interface == 'new' and not hasattr(torch.backends, 'fp32_precision'):
        pytest.skip('this version of torch has one interface')

    def let(new, old):
        if interface == 'new':
            torch.backends.mkldnn.matmul.fp32_precision = new
        else:
            torch.set_float32_matmul_precision(old)

    torch.manual_seed(0)
    x = torch.randn(40, 50, 7, 7)
    let('bf16', 'medium')
    try:
        sums = passes.instance_sum(x), passes.statistics(x)[0]
    finally:
        let('none', 'highest')
    for found in sums:
        torch.testing.assert_close(found.double(), x.double().sum((2, 3)), atol=2e-5, rtol=0)


@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc'])
@pytest.mark.parametrize('channels, size', [(5, 5), (5, 20), (1, 1), (1, 5), (1, 20)])
@pytest.mark.parametrize('large', [False, True], ids=['', 'large'])
@modes
def test_gradients_where_the_mean_is_large(monkeypatch, training, dtype, memory_format, channels, size, large):
    """sum dy·x - mu·sum dy would lose digits: beyond two standard deviations, x is centred first."""
    monkeypatch.setattr(passes, '_SMALL', 0)
    if large:
        monkeypatch.setattr(passes, '_LARGE_INSTANCE', 0)
    wide = {k: torch.from_numpy(v).float() for k, v in draw((6, channels, size, size)).items()}
    x, dy = wide.pop('x'), wide.pop('dy')
    wide['running_mean'] += 30
    wide['gate_weight'] /= 30  # or a gate would be almost 0, and so known to few digits
    wide['running_mean'][1:2] = 0  # of one channel in five, the mean stays below two standard deviations
    x = (x + wide['running_mean'].view(-1, 1, 1)).to(dtype).contiguous(memory_format=memory_format)
    dy = dy.to(dtype).contiguous(memory_format=memory_format)
    exact, actual = run_exact(wide, x, dy, training), run(ops.ie_batch_norm, wide, x, dy, training)[0]
    for name in PARAMETERS:
        error = (actual[name].double() - exact[name]).abs().max() / exact[name].abs().max()
        assert error <= 2e-5, f'{name}: {error:.1e}'  # 30 times the error of one float32 operation, and some sums


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc'])
@pytest.mark.parametrize('std, mean', [(1, 0), (1000, 0), (5000, 0), (1, 10), (1, 100)])
@pytest.mark.parametrize('large', [False, True], ids=['', 'large'])
def test_the_gradient_of_x_where_x_is_large_or_far_from_0(monkeypatch, dtype, memory_format, std, mean, large):
    """k·x is then lost in float16, which has few exponents, or s·dy + c much larger than the sum of both."""
    if large:
        monkeypatch.setattr(passes, '_LARGE_INSTANCE', 0)
    torch.manual_seed(0)
    x = (torch.randn(4, 24, 32, 32) * std + mean).to(dtype).contiguous(memory_format=memory_format)
    dy = (0.7 * (x - mean).float() / std + 0.7 * torch.randn(x.shape)).to(dtype).contiguous(memory_format=memory_format)
    wide = {'running_mean': torch.zeros(24), 'running_var': torch.ones(24), 'weight': torch.ones(24),
            'bias': torch.zeros(24), 'gate_weight': torch.full((24,), 0.1 / (std + mean)), 'gate_bias': torch.zeros(24)}
    exact, actual = run_exact(wide, x, dy, True)['x'], run(ops.ie_batch_norm, wide, x, dy, True)[0]['x'].double()
    error = (actual - exact).norm() / exact.norm()
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps * exact.numel() ** 0.5 / exact.norm()
    assert error <= torch.finfo(dtype).eps + smallest, f'{error:.1e}'


def test_a_long_row_is_summed_in_parts():
    """Added one after the other in float32, the squares of a row of 2^18 values would be off by 4e-5."""
    torch.manual_seed(0)
    x = (torch.rand(2, 3, 512, 512) + 1).bfloat16()
    sums, squares = passes._sums(x, x)
    for found, exact in ((sums, x.double().sum((2, 3))), (squares, x.double().square().sum((2, 3)))):
        assert ((found - exact) / exact).abs().max() <= 5e-7
