"""Every implementation and the dispatcher, in float64, against the numpy oracle: output, statistics, five gradients."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iebn_zoo import ops
from tests.support.ops import oracle

IMPLEMENTATIONS = {
    'dispatch': ops.ie_batch_norm, 'reference': ops.reference.ie_batch_norm, 'composed': ops.composed.ie_batch_norm,
    'compiled': ops.compiled.ie_batch_norm}
MOMENTUM, EPS = 0.3, 1e-5
PARAMETERS = ('weight', 'bias', 'gate_weight', 'gate_bias')
implementations = pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
modes = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])


def draw(shape, seed=0, affine=True, tracked=True):
    rng = np.random.default_rng(seed)
    c = shape[1]
    args = {
        'x': rng.normal(0.3, 1.5, shape), 'running_mean': rng.normal(size=c), 'running_var': rng.uniform(0.3, 2, c),
        'weight': rng.normal(1, 0.5, c), 'bias': rng.normal(size=c), 'gate_weight': rng.normal(size=c),
        'gate_bias': rng.normal(-1, 0.5, c), 'dy': rng.normal(size=shape)}
    dropped = (() if affine else ('weight', 'bias')) + (() if tracked else ('running_mean', 'running_var'))
    return {k: None if k in dropped else v for k, v in args.items()}


def close(actual, expected, what):
    assert actual is not None, what
    error = np.abs(actual.detach().numpy() - expected).max() / (1 + np.abs(expected).max())
    assert error <= 1e-10, f'{what}: {error:.1e}'


def check(implementation, args, training, x=None):
    """Compare on ``args``; ``x``, if given, is a tensor of the same values in another memory layout."""
    tensors = {k: None if v is None else torch.from_numpy(v.copy()) for k, v in args.items()}
    if x is not None:
        tensors['x'] = x.detach()
        assert np.array_equal(x.detach().numpy(), args['x'])
    dy = tensors.pop('dy')
    leaves = {k: tensors[k].requires_grad_() for k in ('x', *PARAMETERS) if tensors[k] is not None}
    y = IMPLEMENTATIONS[implementation](**tensors, training=training, momentum=MOMENTUM, eps=EPS)
    y.backward(dy)
    expected = oracle.ie_batch_norm(**args, training=training, momentum=MOMENTUM, eps=EPS)
    assert y.dtype == torch.float64 and y.shape == args['x'].shape
    close(y, expected['y'], 'y')
    for name, leaf in leaves.items():
        close(leaf.grad, expected[f'd{name}' if name == 'x' else f'd_{name}'], f'd_{name}')
    for name in ('running_mean', 'running_var'):
        if tensors[name] is not None:
            close(tensors[name], expected[name], name)
            assert training or np.array_equal(tensors[name].numpy(), args[name]), f'{name} moved in eval'
    return y


@implementations
@modes
@settings(max_examples=40, deadline=None, derandomize=True)
@given(b=st.integers(1, 9), c=st.integers(1, 13), h=st.integers(1, 12), w=st.integers(1, 12),
       seed=st.integers(0, 99), affine=st.booleans(), tracked=st.booleans())
def test_any_shape(implementation, training, b, c, h, w, seed, affine, tracked):
    if b * h * w == 1 and (training or not tracked):
        w = 2
    check(implementation, draw((b, c, h, w), seed, affine, tracked), training)


@implementations
@modes
@pytest.mark.parametrize('shape', [
    (1, 1, 1, 2), (1, 63, 3, 1), (2, 1, 1, 1), (9, 13, 1, 1), (1, 5, 100, 1), (3, 7, 1, 63), (5, 31, 7, 11),
    (2, 3, 40, 33)])
def test_odd_shape(implementation, training, shape):
    check(implementation, draw(shape), training)


@implementations
def test_single_value_in_eval(implementation):
    check(implementation, draw((1, 4, 1, 1)), training=False)


LAYOUTS = {
    'channels_last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'strided_slice': lambda x: x.repeat_interleave(2, 3).repeat_interleave(3, 0)[::3, :, :, ::2],
    'transposed_hw': lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    'transposed_bc': lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    'offset': lambda x: torch.cat([torch.zeros_like(x[:, :1]), x], 1)[:, 1:],
}


@implementations
@modes
@pytest.mark.parametrize('layout', LAYOUTS)
def test_memory_layout(implementation, training, layout):
    args = draw((5, 6, 7, 3))
    x = LAYOUTS[layout](torch.from_numpy(args['x']))
    assert not x.is_contiguous()
    y = check(implementation, args, training, x)
    if layout == 'channels_last':
        assert y.is_contiguous(memory_format=torch.channels_last)


@implementations
@modes
@pytest.mark.parametrize('dim', [0, 1, 2])
def test_expanded_input(implementation, training, dim):
    args = draw((5, 6, 7, 3))
    x = torch.from_numpy(args['x']).narrow(dim, 0, 1).expand(5, 6, 7, 3)
    assert x.stride(dim) == 0
    args['x'] = x.numpy().copy()
    check(implementation, args, training, x)


@implementations
@modes
@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('tracked', [True, False])
def test_gradcheck(implementation, training, affine, tracked):
    args = draw((3, 2, 2, 3), affine=affine, tracked=tracked)
    statistics = [None if args[k] is None else torch.from_numpy(args[k]) for k in ('running_mean', 'running_var')]
    names = [k for k in ('x', *PARAMETERS) if args[k] is not None]

    def f(*leaves):
        given = {**dict.fromkeys(('weight', 'bias')), **dict(zip(names, leaves, strict=True))}
        copies = [None if s is None else s.clone() for s in statistics]
        return IMPLEMENTATIONS[implementation](given.pop('x'), *copies, **given, training=training)

    leaves = [torch.from_numpy(args[k]).requires_grad_() for k in names]
    assert torch.autograd.gradcheck(f, leaves)
    assert torch.autograd.gradgradcheck(f, leaves)


@implementations
def test_input_and_parameters_are_not_written(implementation):
    tensors = {k: torch.from_numpy(v) for k, v in draw((3, 4, 5, 5)).items()}
    tensors.pop('dy')
    before = {k: v.clone() for k, v in tensors.items()}
    y = IMPLEMENTATIONS[implementation](**tensors, training=True, momentum=MOMENTUM)
    changed = {k for k in tensors if not torch.equal(tensors[k], before[k])}
    assert changed == {'running_mean', 'running_var'}
    assert y._base is None, 'a view would break an in-place activation behind the layer'
