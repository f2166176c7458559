"""The layer: numbers of the reference code, initial state, statistics, errors."""
import copy
import math
import pickle

import pytest
import timm.layers
import timm.optim
import torch
from safetensors.torch import load_file
from torch import nn

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.layers.statistics import is_plain
from iebn_zoo.ops import reference
from tests.support.layers import SIGMOID_INIT, randomized
from tests.support.paths import FIXTURES

FIXTURE = load_file(FIXTURES / 'reference_layer.safetensors')
CASES = sorted({key.rsplit('.', 1)[0] for key in FIXTURE})
NAMES = {'weight': 'weight', 'bias': 'bias', 'gate_weight': 'weight_readjust', 'gate_bias': 'bias_readjust'}


def test_fixture_has_both_modes():
    assert len(CASES) >= 6 and {c.split('.')[1] for c in CASES} == {'train', 'eval'}


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc'])
def test_equals_reference_code(case, memory_format):
    data = {k.rsplit('.', 1)[1]: v for k, v in FIXTURE.items() if k.startswith(f'{case}.')}
    layer = IEBatchNorm2d(data['x'].size(1), dtype=torch.float64).train(case.endswith('train'))
    with torch.no_grad():
        for ours, theirs in NAMES.items():
            getattr(layer, ours).copy_(data[theirs].flatten())
        layer.bn.running_mean.copy_(data['running_mean'])
        layer.bn.running_var.copy_(data['running_var'])
    x = data['x'].contiguous(memory_format=memory_format).detach().requires_grad_()
    y = layer(x)
    y.backward(data['dy'])
    tolerance = dict(atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(y, data['y'], **tolerance)
    torch.testing.assert_close(x.grad, data['grad_x'], check_stride=False, **tolerance)
    for ours, theirs in NAMES.items():
        torch.testing.assert_close(getattr(layer, ours).grad, data[f'grad_{theirs}'].flatten(), **tolerance)
    for name in ('running_mean', 'running_var'):
        torch.testing.assert_close(getattr(layer.bn, name), data[f'{name}_after'], **tolerance)


def test_initial_state():
    layer = IEBatchNorm2d(6)
    state = {k: v.tolist() for k, v in layer.state_dict().items()}
    assert state == {
        'weight': [1.0] * 6, 'bias': [0.0] * 6, 'gate_weight': [0.0] * 6, 'gate_bias': [-1.0] * 6,
        'bn.running_mean': [0.0] * 6, 'bn.running_var': [1.0] * 6, 'bn.num_batches_tracked': 0}
    x = torch.randn(4, 6, 5, 5)
    gated = nn.BatchNorm2d(6)(x) / (1 + math.e)  # sigmoid(-1) for every instance
    torch.testing.assert_close(layer(x), gated)


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_constant_gate_is_batch_norm(training):
    bn = randomized(nn.BatchNorm2d(5).double()).train(training)
    layer = IEBatchNorm2d(5, dtype=torch.float64).train(training)
    with torch.no_grad():
        layer.weight.copy_(bn.weight / SIGMOID_INIT)
        layer.bias.copy_(bn.bias)
    layer.bn.load_state_dict({k: v for k, v in bn.state_dict().items() if k not in ('weight', 'bias')})
    x = torch.randn(3, 5, 7, 6, dtype=torch.float64) * 2 + 1
    torch.testing.assert_close(layer(x), bn(x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize('momentum', [None, 0.0, 0.1, 1.0])
def test_statistics_follow_batch_norm(momentum):
    layer, bn = IEBatchNorm2d(4, momentum=momentum), nn.BatchNorm2d(4, momentum=momentum)
    for step in range(5):
        x = torch.randn(3, 4, 5, 5) * (step + 1) + step
        layer(x), bn(x)
    for key, value in layer.bn.state_dict().items():
        torch.testing.assert_close(value, bn.state_dict()[key])
    assert layer.bn.num_batches_tracked == 5


def test_untracked_statistics():
    layer = randomized(IEBatchNorm2d(4, track_running_stats=False))
    assert set(layer.state_dict()) == {'weight', 'bias', 'gate_weight', 'gate_bias'}
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(layer.eval()(x), layer.train()(x), atol=0, rtol=0)


def test_without_affine_the_gate_stays():
    layer = randomized(IEBatchNorm2d(4, affine=False))
    assert layer.weight is None and layer.bias is None
    assert {k for k, _ in layer.named_parameters()} == {'gate_weight', 'gate_bias'}
    full = IEBatchNorm2d(4)
    full.load_state_dict({**full.state_dict(), **layer.state_dict()})
    x = torch.randn(3, 4, 5, 5)
    y = layer(x)
    torch.testing.assert_close(y, full(x))
    y.square().sum().backward()
    assert layer.gate_weight.grad.abs().sum() > 0 and layer.gate_bias.grad.abs().sum() > 0


@pytest.mark.parametrize('shape, values', [
    ((4, 3), ('4-D', '2-D')), ((3, 8, 8), ('4-D', '3-D')), ((2, 3, 4, 4, 4), ('4-D', '5-D')),
    ((2, 4, 8, 8), ('3 channels', '4')), ((2, 1, 8, 8), ('3 channels', '1'))])
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_wrong_shape(shape, values, training):
    layer = IEBatchNorm2d(3).train(training)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError) as error:
        layer(torch.randn(shape))
    assert all(value in str(error.value) for value in values)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


def test_one_value_a_channel():
    layer, x = IEBatchNorm2d(3), torch.randn(1, 3, 1, 1)
    with pytest.raises(ValueError, match='more than 1 value per channel.*B = H = W = 1'):
        layer(x)
    assert layer.bn.num_batches_tracked == 0
    torch.testing.assert_close(layer.eval()(x), x * SIGMOID_INIT, atol=1e-5, rtol=1e-5)
    frozen = IEBatchNorm2d(3)
    frozen.bn.eval()  # the child's mode counts
    assert frozen(x).shape == x.shape


@pytest.mark.parametrize('numbers, said', [
    (dict(num_features=0), 'num_features is 0'), (dict(num_features=-3), 'num_features is -3'),
    (dict(num_features=3.0), 'num_features is 3.0'), (dict(num_features='3'), "num_features is '3'"),
    (dict(eps=-1e-5), 'eps is -1e-05'), (dict(eps=math.nan), 'eps is nan'), (dict(eps=None), 'eps is None'),
    (dict(momentum=-0.1), 'momentum is -0.1'), (dict(momentum=1.5), 'momentum is 1.5'),
    (dict(momentum=math.nan), 'momentum is nan')])
def test_numbers_out_of_their_ranges(numbers, said):
    with pytest.raises(ValueError, match=f'^{said}, expected'):
        IEBatchNorm2d(**{'num_features': 3, **numbers})


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_eps_may_be_zero(training):
    layer = randomized(IEBatchNorm2d(3, eps=0, dtype=torch.float64)).train(training)
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    state = {k: v.clone() for k, v in layer.state_dict().items()}
    expected = reference.ie_batch_norm(
        x, state['bn.running_mean'], state['bn.running_var'], *(state[k] for k in NAMES), training=training, eps=0)
    torch.testing.assert_close(layer(x), expected)


LAYERS = {'layer': IEBatchNorm2d, 'act': IEBatchNormAct2d,
          'replaced_child': lambda n: timm.layers.freeze_batch_norm_2d(IEBatchNorm2d(n))}
REFUSED_DTYPES = [torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]


@pytest.mark.parametrize('dtype', REFUSED_DTYPES, ids=str)
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('build', LAYERS.values(), ids=LAYERS)
def test_dtypes_that_batch_norm_refuses(build, training, dtype):
    layer = build(3).train(training)
    before = copy.deepcopy(layer.state_dict())
    x = torch.ones(2, 3, 4, 4).to(dtype)
    with pytest.raises(ValueError, match=f'^an input of dtype {dtype} cannot be normalized: IEBN expects float32'):
        layer(x)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    with pytest.raises(RuntimeError):  # NotImplementedError is one
        nn.BatchNorm2d(3).train(training)(x)


@pytest.mark.parametrize('shape', [(4, 3, 0, 5), (4, 3, 5, 0)])
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('build', LAYERS.values(), ids=LAYERS)
def test_instances_without_a_pixel(build, training, shape):
    layer = build(3).train(training)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=f'^an input of {shape[2]}x{shape[3]} pixels has no mean'):
        layer(torch.ones(shape))
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16], ids=str)
def test_dtype(dtype):
    layer = IEBatchNorm2d(3, dtype=dtype)
    assert {v.dtype for k, v in layer.state_dict().items() if 'tracked' not in k} == {dtype}
    assert layer(torch.randn(2, 3, 4, 4, dtype=dtype)).dtype == dtype


def test_meta_device():
    layer = IEBatchNorm2d(3, device='meta')
    assert all(v.is_meta for v in layer.state_dict().values())
    assert layer.eval()(torch.empty(2, 3, 4, 4, device='meta')).shape == (2, 3, 4, 4)
    real = layer.to_empty(device='cpu')
    for value in real.state_dict().values():
        value.fill_(7)
    real.reset_parameters()
    expected = IEBatchNorm2d(3).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in real.state_dict().items())


def test_what_tools_see():
    layer = IEBatchNorm2d(3)
    assert not isinstance(layer, nn.modules.batchnorm._NormBase)
    assert isinstance(layer.bn, nn.BatchNorm2d) and is_plain(layer.bn) and not layer.bn.affine
    for name in ('running_mean', 'running_var', 'fuse', 'reparameterize', 'switch_to_deploy'):
        assert not hasattr(layer, name), name
    assert type(layer).__name__ not in ('BatchNorm2d', 'SyncBatchNorm', 'BatchNormAct2d')
    assert {k: tuple(p.shape) for k, p in layer.named_parameters()} == dict.fromkeys(NAMES, (3,))


def test_no_weight_decay():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), IEBatchNorm2d(4))
    groups = timm.optim.param_groups_weight_decay(model, weight_decay=0.05)
    undecayed = [p for g in groups if g['weight_decay'] == 0 for p in g['params']]
    assert {id(p) for p in undecayed} == {id(p) for p in model[1].parameters()}
    assert [p.shape for g in groups if g['weight_decay'] == 0.05 for p in g['params']] == [model[0].weight.shape]


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=['copy', 'pickle'])
def test_copies(duplicate):
    layer, x = randomized(IEBatchNorm2d(4, eps=1e-3, momentum=None)), torch.randn(3, 4, 5, 5)
    twin = duplicate(layer)
    assert torch.equal(layer(x), twin(x))
    assert torch.equal(layer.eval()(x), twin.eval()(x))
    assert repr(layer) == repr(twin)
    with torch.no_grad():
        twin.gate_bias.add_(1)
    assert not torch.equal(layer(x), twin(x))


@pytest.mark.parametrize('missing', ['weight', 'bias'])
def test_reset_with_one_of_weight_and_bias(missing):
    """Conversion of a norm without a bias leaves such a layer."""
    layer = randomized(IEBatchNorm2d(4))
    setattr(layer, missing, None)
    layer.reset_parameters()
    kept = layer.bias if missing == 'weight' else layer.weight
    assert kept.tolist() == [0.0 if missing == 'weight' else 1.0] * 4
