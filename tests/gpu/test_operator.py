"""The operator with a shortcut and a ReLU in it, on the GPU, against numpy in float64; and beyond 2^31 values."""
import numpy as np
import pytest
import torch

from iebn_zoo import IEBatchNorm2d
from iebn_zoo.ops import ie_batch_norm
from tests.ops.test_reference import draw
from tests.support.gpu_device import CUDA, DEVICE, layouts, much_memory, require_gpu
from tests.support.layers import randomized
from tests.support.ops import oracle

require_gpu()

EPS, MOMENTUM = 1e-5, 0.3
GRADIENTS = ('x', 'residual', 'weight', 'bias', 'gate_weight', 'gate_bias')
# of the norm of a result: float32 arithmetic, and the rounding of what a narrow type holds
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}
SHAPES = [(3, 5, 7, 9), (2, 65, 1, 31), (33, 17, 2, 3)]


def relative(actual, exact):
    actual = actual.detach().double().cpu().numpy() if isinstance(actual, torch.Tensor) else actual
    return np.linalg.norm(actual - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('relu', [False, True], ids=['linear', 'relu'])
@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
@layouts
def test_with_a_shortcut(dtype, layout, relu, training):
    for shape in SHAPES:
        arrays = draw(shape)
        tensors = {k: torch.from_numpy(v).to(DEVICE, dtype if k in ('x', 'dy') else torch.float32)
                   for k, v in arrays.items()}
        tensors['x'] = tensors['x'].contiguous(memory_format=layout)
        generator = torch.Generator().manual_seed(1)
        residual = torch.randn(shape, generator=generator).to(DEVICE, dtype, memory_format=layout)
        values = {k: v.double().cpu().numpy() for k, v in tensors.items()}
        options = dict(training=training, momentum=MOMENTUM, eps=EPS)
        total = oracle.ie_batch_norm(**values, **options)['y'] + residual.double().cpu().numpy()
        mask = np.ones_like(total)
        if relu:
            # the gradient of ReLU jumps where the sign of a sum is a matter of rounding: no gradient comes in there
            values['dy'] = np.where(np.abs(total) < 0.05, 0.0, values['dy'])
            mask = total > 0
        exact = oracle.ie_batch_norm(**{**values, 'dy': values['dy'] * mask}, **options)
        y_exact, dy = total * mask, torch.from_numpy(values['dy']).to(DEVICE, dtype)
        statistics = {k: tensors[k].clone() for k in ('running_mean', 'running_var')}
        leaves = {k: {**tensors, 'residual': residual}[k].detach().requires_grad_() for k in GRADIENTS}
        y = ie_batch_norm(**leaves, **statistics, **options, relu=relu)
        found = torch.autograd.grad(y, list(leaves.values()), dy)
        assert y.dtype == dtype and relative(y, y_exact) <= TOLERANCE[dtype]
        for name, gradient in zip(GRADIENTS, found, strict=True):
            wanted = values['dy'] * mask if name == 'residual' else exact['dx' if name == 'x' else f'd_{name}']
            assert relative(gradient, wanted) <= TOLERANCE[dtype], (shape, name)
        for name, value in statistics.items():
            assert relative(value, exact[name]) <= TOLERANCE[torch.float32], (shape, name)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@layouts
def test_more_than_2_to_the_31_values(layout, training):
    """Nine times the same image: output and gradient of the last are those of one image alone, in training too."""
    with much_memory(24):
        check_the_last_of_many(layout, training)


def check_the_last_of_many(layout, training):
    batch, shape = 9, (1, 64, 2048, 2048) if CUDA else (1, 4, 8, 8)
    assert not CUDA or batch * 64 * 2048 * 2048 > 2 ** 31
    generator = torch.Generator(DEVICE).manual_seed(0)
    x, dy = (torch.randn(shape, generator=generator, device=DEVICE, dtype=torch.float16) for _ in range(2))
    results = []
    for copies in (1, batch):
        many = [t.expand(copies, *shape[1:]).contiguous(memory_format=layout) for t in (x, dy)]
        layer = randomized(IEBatchNorm2d(shape[1])).to(DEVICE).train(training)
        y = layer(many[0].requires_grad_())
        gradients = torch.autograd.grad(y, [many[0], *layer.parameters()], many[1])
        results.append([y[-1].detach().clone(), gradients[0][-1].clone(), *(g / copies for g in gradients[1:])])
        del many, y, gradients
    for alone, last in zip(*results, strict=True):
        scale = alone.float().abs().max()
        assert scale > 0 and (last.float() - alone.float()).abs().max() <= 2e-3 * scale
