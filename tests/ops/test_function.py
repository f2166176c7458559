"""The autograd node where a transform takes its backward alone: batches of gradients, tangents, and graphs of those."""
import pytest
import torch
from torch.autograd import forward_ad
from torch.func import vmap

from iebn_zoo import IEBatchNormAct2d, ops
from tests.ops.test_reference import PARAMETERS, draw
from tests.support.layers import randomized

modes = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
options = pytest.mark.parametrize(
    'relu, residual', [(False, False), (True, False), (False, True), (True, True)],
    ids=['norm', 'relu', 'residual', 'residual-relu'])
shapes = pytest.mark.parametrize('shape', [(3, 5, 4, 4), (2, 24, 40, 40)], ids=['small', 'large'])


def output(shape, training, relu, residual, affine=True):
    """The output of the closed form, and the tensors that have gradients."""
    y, leaves = output_without_check(shape, training, relu, residual, affine)
    assert type(y.grad_fn).__name__ == 'IEBatchNormFunctionBackward'
    return y, leaves


def output_without_check(shape, training, relu, residual, affine=True):
    args = {k: None if v is None else torch.from_numpy(v) for k, v in draw(shape, affine=affine).items()}
    shortcut = args.pop('dy')
    leaves = [args[k] for k in ('x', *PARAMETERS) if args[k] is not None] + ([shortcut] if residual else [])
    for leaf in leaves:
        leaf.requires_grad_()
    y = ops.ie_batch_norm(**args, training=training, relu=relu, residual=shortcut if residual else None)
    return y, leaves


def by_autograd(y, leaves, batch):
    return torch.autograd.grad(y, leaves, batch, is_grads_batched=True, retain_graph=True)


def by_vmap(y, leaves, batch):
    return vmap(lambda dy: torch.autograd.grad(y, leaves, dy, retain_graph=True))(batch)


@modes
@options
@shapes
@pytest.mark.parametrize('batched', [by_autograd, by_vmap])
def test_a_batch_of_gradients(training, relu, residual, shape, batched):
    y, leaves = output(shape, training, relu, residual)
    batch = torch.randn(3, *shape, dtype=torch.float64)
    rows = [torch.autograd.grad(y, leaves, dy, retain_graph=True) for dy in batch]
    for actual, *expected in zip(batched(y, leaves, batch), *rows, strict=True):
        assert not actual.requires_grad
        torch.testing.assert_close(actual, torch.stack(expected), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize('batched', [by_autograd, by_vmap])
def test_a_batch_of_some_gradients(batched):
    """Without affine, and only for the gates."""
    y, (x, gate_weight, gate_bias) = output((3, 5, 4, 4), True, True, False, affine=False)
    batch = torch.randn(3, *y.shape, dtype=torch.float64)
    for leaves in ([gate_bias], [gate_weight], [x]):
        rows = [torch.autograd.grad(y, leaves, dy, retain_graph=True)[0] for dy in batch]
        torch.testing.assert_close(batched(y, leaves, batch)[0], torch.stack(rows), atol=1e-10, rtol=1e-10)


@modes
@options
@shapes
def test_the_tangent_of_a_gradient(training, relu, residual, shape):
    """A gradient is linear in dy."""
    y, leaves = output(shape, training, relu, residual)
    dy, along = torch.randn(2, *shape, dtype=torch.float64)
    expected = torch.autograd.grad(y, leaves, along, retain_graph=True)
    with forward_ad.dual_level():
        duals = torch.autograd.grad(y, leaves, forward_ad.make_dual(dy, along), retain_graph=True)
        found = [forward_ad.unpack_dual(dual).tangent for dual in duals]
    _, by_jvp = torch.func.jvp(lambda u: torch.autograd.grad(y, leaves, u, retain_graph=True), (dy,), (along,))
    for tangent, other, value in zip(found, by_jvp, expected, strict=True):
        torch.testing.assert_close(tangent, value, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(other, value, atol=1e-10, rtol=1e-10)


@modes
@options
def test_second_derivatives_by_transforms(training, relu, residual):
    y, leaves = output((3, 5, 4, 4), training, relu, residual)

    def square(dy):
        gradients = torch.autograd.grad(y, leaves, dy, create_graph=True)
        return sum(g.square().sum() for g in gradients)

    batch = torch.randn(3, *y.shape, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([torch.autograd.grad(square(dy), dy)[0] for dy in batch.unbind()])
    torch.testing.assert_close(vmap(torch.func.grad(square))(batch), expected, atol=1e-9, rtol=1e-9)
    rows = torch.autograd.grad(y, leaves, batch, is_grads_batched=True, create_graph=True)
    (actual,) = torch.autograd.grad(sum(g.square().sum() for g in rows), batch)
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=1e-9)


@modes
def test_vectorized_functions_of_autograd(training):
    layer = randomized(IEBatchNormAct2d(3).double()).train(training)
    x = torch.randn(2, 3, 3, 4, dtype=torch.float64)

    def norm(t):
        return layer(t, t.sin())

    for function, of in ((torch.autograd.functional.jacobian, norm),
                         (torch.autograd.functional.hessian, lambda t: norm(t).pow(3).sum())):
        torch.testing.assert_close(function(of, x, vectorize=True), function(of, x), atol=1e-9, rtol=1e-9)
    assert torch.autograd.gradcheck(norm, [x.requires_grad_()], check_batched_grad=True)
    assert torch.autograd.gradgradcheck(norm, [x], check_batched_grad=True)


@modes
def test_a_plain_backward_in_a_level_of_forward_ad_may_save_its_tensors_elsewhere(training):
    y, leaves = output((3, 5, 4, 4), training, True, True)
    expected = torch.autograd.grad(y.square().sum(), leaves)
    with forward_ad.dual_level(), torch.autograd.graph.save_on_cpu():
        y, leaves = output_without_check((3, 5, 4, 4), training, True, True)
        found = torch.autograd.grad(y.square().sum(), leaves)
    torch.testing.assert_close(found, expected)
    y, leaves = output((3, 5, 4, 4), training, True, True)
    with forward_ad.dual_level(), torch.autograd.graph.save_on_cpu():
        torch.testing.assert_close(torch.autograd.grad(y.square().sum(), leaves), expected)
