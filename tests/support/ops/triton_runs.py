"""The Triton backend run on the GPU or in Triton's interpreter, and what float64 says it should have computed.

Interpretation has to be chosen before Triton is first imported, which timm does: it takes a process of its own, which
``test_triton.test_in_the_interpreter`` starts.
"""
import os

import numpy as np
import pytest
import torch

from iebn_zoo.ops import triton as backend
from iebn_zoo.ops.function import Needs
from tests.ops.test_reference import draw
from tests.support.ops import oracle

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
CUDA = torch.cuda.is_available() and not INTERPRETED
DEVICE = 'cuda' if CUDA else 'cpu'
MOMENTUM, EPS = 0.3, 1e-5
GRADIENTS = ('dx', 'd_weight', 'd_bias', 'd_gate_weight', 'd_gate_bias', 'd_residual')
STATISTICS = ('running_mean', 'running_var')
# arithmetic of a few thousand float32 terms, relative to the largest value of a result
TOLERANCE = 5e-6
runs_kernels = pytest.mark.skipif(
    not (CUDA or INTERPRETED), reason='no GPU: test_in_the_interpreter runs these in a process of their own')
modes = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
layouts = pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc'])


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """What ``torch.empty`` returns is NaN, so that a value that is not written shows. One SM, whatever the GPU."""
    for name in ('empty', 'empty_like'):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *args, make=make, **options: make(*args, **options).fill_(torch.nan))
    monkeypatch.setattr(backend, 'sm_count', lambda device: 1)
    backend._plan.cache_clear()
    yield
    backend._plan.cache_clear()


def change(monkeypatch, **constants):
    for name, value in constants.items():
        monkeypatch.setattr(backend, name, value)
    backend._plan.cache_clear()


def draw_all(shape, seed=0, affine=True, tracked=True, residual=True):
    args = draw(shape, seed, affine, tracked)
    return {**args, 'residual': np.random.default_rng(seed + 1).normal(size=shape) if residual else None}


def tensors_of(args, layout=torch.contiguous_format, dtype=torch.float32, parameter_dtype=torch.float32):
    """Tensors on the device, and the float64 values that they really have."""
    dtypes = {k: dtype if k in ('x', 'dy', 'residual') else parameter_dtype for k in args}
    tensors = {k: None if v is None else torch.from_numpy(v).to(DEVICE, dtypes[k]) for k, v in args.items()}
    tensors['x'] = tensors['x'].contiguous(memory_format=layout)
    return tensors, {k: None if v is None else v.double().cpu().numpy() for k, v in tensors.items()}


def run(tensors, training, relu=True, needs=None):
    tensors = tensors | {k: tensors[k].clone() for k in STATISTICS if tensors[k] is not None}
    dy, count = tensors.pop('dy'), torch.full((), 41, device=DEVICE)
    y, saved = backend.forward(
        **tensors, training=training, momentum=MOMENTUM, eps=EPS, relu=relu, num_batches_tracked=count)
    assert count == 41 + training
    x, weight, bias, gate_weight = (tensors[k] for k in ('x', 'weight', 'bias', 'gate_weight'))
    needs = needs or Needs(True, True, True, True, True, tensors.get('residual') is not None)
    gradients = backend.backward(dy, x, saved, weight, bias, gate_weight, training, EPS, relu, needs)
    return {'y': y, **dict(zip(GRADIENTS, gradients, strict=True)), **{k: tensors[k] for k in STATISTICS}}


def expect(values, training, relu=True):
    options = dict(training=training, momentum=MOMENTUM, eps=EPS)
    values = dict(values)
    residual = values.pop('residual', None)
    expected = oracle.ie_batch_norm(**values, **options)
    y = expected['y'] if residual is None else expected['y'] + residual
    if relu:
        values['dy'] = values['dy'] * (y > 0)
        expected = oracle.ie_batch_norm(**values, **options)
        y = y * (y > 0)
    return {**expected, 'y': y, **({} if residual is None else {'d_residual': values['dy']})}


def check(tensors, values, training, relu=True):
    actual = run(tensors, training, relu)
    for name, value in expect(values, training, relu).items():
        if actual[name] is None:
            assert tensors[name.removeprefix('d_')] is None, name
            continue
        error = np.abs(actual[name].cpu().numpy() - value).max() / (1 + np.abs(value).max())
        assert error <= TOLERANCE, f'{name}: {error:.1e}'
    return actual
