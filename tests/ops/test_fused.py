"""The ReLU and the residual inside the operator, and what the closed form keeps for its backward."""
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from iebn_zoo import ops
from iebn_zoo.ops import passes
from tests.ops.test_reference import LAYOUTS, PARAMETERS, draw

modes = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
residuals = pytest.mark.parametrize('residual', [False, True], ids=['alone', 'residual'])


def by_formula(x, *args, relu=True, residual=None, **kwargs):
    y = ops.reference.ie_batch_norm(x, *args, **kwargs)
    y = y if residual is None else y + residual
    return torch.relu(y) if relu else y


def run(function, args, training, residual, relu=True, dtype=torch.float64, layout=None):
    tensors = {k: None if v is None else torch.from_numpy(v.copy()).to(dtype) for k, v in args.items()}
    dy = tensors.pop('dy')
    if layout is not None:
        tensors['x'] = LAYOUTS[layout](tensors['x'])
    if residual:
        tensors['residual'] = torch.sin(3 * tensors['x'])
    leaves = {k: v.detach().requires_grad_() for k, v in tensors.items()
              if v is not None and k in ('x', 'residual', *PARAMETERS)}
    tensors.update(leaves)
    extra = {'residual': tensors.pop('residual')} if residual else {}
    y = function(*tensors.values(), training=training, momentum=0.3, relu=relu, **extra)
    y.backward(dy)
    return {'y': y.detach(), **{k: v.grad for k, v in leaves.items()},
            **{k: tensors[k] for k in ('running_mean', 'running_var') if tensors[k] is not None}}


def assert_equal(actual, expected, tolerance=1e-10):
    for name, value in expected.items():
        error = (actual[name].double() - value).abs().max() / (1 + value.abs().max())
        assert error <= tolerance, f'{name}: {error:.1e}'


@modes
@settings(max_examples=60, deadline=None, derandomize=True)
@given(b=st.integers(1, 9), c=st.integers(1, 70), h=st.integers(1, 40), w=st.integers(1, 40), seed=st.integers(0, 99),
       affine=st.booleans(), tracked=st.booleans(), relu=st.booleans(), residual=st.booleans(),
       layout=st.sampled_from([None, *LAYOUTS]), small=st.booleans(), mean=st.sampled_from([0, 5]))
def test_any_shape(training, b, c, h, w, seed, affine, tracked, relu, residual, layout, small, mean):
    if b * h * w == 1:
        w = 2
    args = draw((b, c, h, w), seed, affine, tracked)
    args['x'] += mean
    with patch.object(passes, '_SMALL', passes._SMALL if small else 0):  # passes of small tensors, or of large ones
        actual = run(ops.ie_batch_norm, args, training, residual, relu, layout=layout)
    assert_equal(actual, run(by_formula, args, training, residual, relu))


@modes
@residuals
@pytest.mark.parametrize(
    'dtype, tolerance', [(torch.float32, 5e-6), (torch.bfloat16, 2 ** -6), (torch.float16, 2 ** -9)])
@pytest.mark.parametrize('layout', [None, 'channels_last'])
@pytest.mark.parametrize('shape', [(6, 5, 9, 7), (3, 5, 20, 20), (2, 300, 3, 3)])
@pytest.mark.parametrize('large', [False, True], ids=['', 'large'])
def test_dtypes(monkeypatch, training, residual, dtype, tolerance, layout, shape, large):
    """Wide parameters, narrow x; the gradients are those behind the mask of our own output, whatever its rounding."""
    monkeypatch.setattr(passes, '_SMALL', 0)
    if large:  # passes of rows and of instances that are long
        monkeypatch.setattr(passes, '_PART', 64)
        monkeypatch.setattr(passes, '_LARGE_INSTANCE', 0)
    args = draw(shape)
    for name in ('x', 'dy'):
        args[name] = torch.from_numpy(args[name]).to(dtype).double().numpy()

    def narrow(x, *parameters, residual=None, **kwargs):
        residual = None if residual is None else residual.to(dtype)
        return ops.ie_batch_norm(x.to(dtype), *parameters, residual=residual, **kwargs)

    actual = run(narrow, args, training, residual, dtype=torch.float32, layout=layout)
    assert_equal({'y': actual['y']}, {'y': run(by_formula, args, training, residual)['y']}, tolerance)
    args['dy'] = args['dy'] * (actual.pop('y') > 0).numpy()
    expected = run(by_formula, args, training, residual, relu=False)
    expected.pop('y')
    assert_equal(actual, expected, tolerance)


@residuals
@pytest.mark.parametrize('relu', [True, False])
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-12), (torch.bfloat16, 2 ** -7)])
@pytest.mark.parametrize('shape, layout, affine', [
    ((1, 5, 9, 7), None, True), ((1, 5, 9, 7), 'channels_last', True), ((1, 5, 7, 7), 'strided_slice', False),
    ((1, 7, 1, 1), None, True), ((3, 5, 9, 7), None, True), ((3, 5, 3, 3), 'channels_last', False)])
@pytest.mark.parametrize('small', [True, False])
def test_inference(monkeypatch, residual, relu, dtype, tolerance, shape, layout, affine, small):
    """Without autograd by running statistics: one small instance has a way of its own. Nothing is written but y."""
    if not small:
        monkeypatch.setattr(passes, '_SMALL', 0)
    args = {k: None if v is None else torch.from_numpy(v) for k, v in draw(shape, affine=affine).items()}
    args['x'] = args['x'].to(dtype)
    dy = args.pop('dy').to(dtype)
    args['residual'] = dy if residual else None
    expected = by_formula(**{k: v if v is None else v.double() for k, v in args.items()}, relu=relu)
    if layout is not None:
        args['x'] = LAYOUTS[layout](args['x'])
    wide = passes.wide_dtype(dtype)
    args = {k: v if v is None or k in ('x', 'residual') else v.to(wide) for k, v in args.items()}
    before = {k: v if v is None else v.clone() for k, v in args.items()}
    with torch.no_grad():
        y = ops.ie_batch_norm(**args, relu=relu)
    assert y.dtype == dtype and y._base is None
    assert_equal({'y': y}, {'y': expected}, tolerance)
    assert all(v is None or torch.equal(v, before[k]) for k, v in args.items())


def test_one_small_instance_takes_few_calls():
    """BatchNorm and ReLU are 2; each call of torch costs about as much as the arithmetic on a small image."""
    args = {k: torch.from_numpy(v).float() for k, v in draw((1, 5, 9, 7)).items()}
    residual = args.pop('dy')
    with profile(activities=[ProfilerActivity.CPU]) as p:
        ops.ie_batch_norm(**args, relu=True, residual=residual)
    calls = [e.name for e in p.events() if e.cpu_parent is None and e.name.startswith('aten::')]
    assert 'aten::native_batch_norm' in calls and len(calls) <= 8, calls


@modes
@residuals
@pytest.mark.parametrize('relu', [True, False])
def test_gradcheck(training, residual, relu):
    args = {k: torch.from_numpy(v) for k, v in draw((3, 2, 2, 3), seed=4).items()}
    names = ('x', *PARAMETERS, *(('dy',) if residual else ()))
    inputs = [args[k].requires_grad_() for k in names]

    def f(x, weight, bias, gate_weight, gate_bias, shortcut=None):
        statistics = [args[k].clone() for k in ('running_mean', 'running_var')]
        return ops.ie_batch_norm(
            x, *statistics, weight, bias, gate_weight, gate_bias, training, relu=relu, residual=shortcut)

    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


def test_one_tensor_in_two_places():
    """x as its own residual, one parameter as weight and gate_weight: gradients add up."""
    args = {k: torch.from_numpy(v) for k, v in draw((3, 4, 5, 5)).items()}

    def f(x, w):
        return ops.ie_batch_norm(x, None, None, w, None, w, args['gate_bias'], True, relu=True, residual=x)

    inputs = [args['x'].requires_grad_(), args['weight'].requires_grad_()]
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize('other', [torch.float64, torch.bfloat16])
def test_residual_of_another_dtype_or_shape(other):
    args = {k: torch.from_numpy(v).float() for k, v in draw((3, 4, 5, 5)).items()}
    dy = args.pop('dy')
    plain = ops.ie_batch_norm(**args)
    for residual in (dy.to(other), dy[:1, :, :1]):
        y = ops.ie_batch_norm(**args, residual=residual)
        assert y.dtype == (plain + residual).dtype
        torch.testing.assert_close(y, plain + residual, atol=1e-5, rtol=1e-5)


@modes
@pytest.mark.parametrize('relu', [False, True])
def test_saved_for_backward(training, relu):
    """x, the output where a ReLU needs its mask, and nothing else larger than (B, C)."""
    args = {k: torch.from_numpy(v).float() for k, v in draw((4, 5, 9, 9)).items()}
    args.pop('dy')
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = ops.ie_batch_norm(**{k: v.requires_grad_(k == 'x') for k, v in args.items()}, training=training, relu=relu)
    large = {t.data_ptr() for t in saved if t.numel() > 20}
    assert large == {args['x'].data_ptr(), *([y.data_ptr()] if relu else [])}
