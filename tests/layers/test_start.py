"""The start of a layer: exact values, exact functions, and what keeps them."""
import copy
import math
import pickle

import pytest
import torch
from torch import nn

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.conversion import convert_bn_to_iebn
from iebn_zoo.layers.start import STARTS
from tests.support.layers import SIGMOID_INIT

LAYERS = [IEBatchNorm2d, IEBatchNormAct2d]
SCALES = {'paper': SIGMOID_INIT, 'bn': 1.0}


def state(layer):
    return {k: v.tolist() for k, v in layer.state_dict().items() if not k.startswith('bn.')}


@pytest.mark.parametrize('make', LAYERS)
@pytest.mark.parametrize('start', STARTS)
def test_values(make, start):
    layer = make(3, start=start, dtype=torch.float64)
    weight = {'paper': 1.0, 'bn': 1.0 + math.e}[start]  # 1 / sigmoid(-1) = 1 + e
    assert state(layer) == {'weight': pytest.approx([weight] * 3, rel=1e-15), 'bias': [0.0] * 3,
                            'gate_weight': [0.0] * 3, 'gate_bias': [-1.0] * 3}
    assert layer.start == start and f"start='{start}'" in repr(layer)


@pytest.mark.parametrize('start', STARTS)
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('shape', [(3, 5, 7, 2), (1, 1, 3, 3), (2, 4, 1, 1)], ids=str)
def test_new_layer_is_batch_norm_times_its_start(start, training, shape):
    layer = IEBatchNorm2d(shape[1], start=start, dtype=torch.float64).train(training)
    bn = nn.BatchNorm2d(shape[1], dtype=torch.float64).train(training)
    for norm in (layer.bn, bn):
        norm.running_mean.fill_(0.7)
        norm.running_var.fill_(2.5)
    ours = (3 * torch.randn(shape, dtype=torch.float64) + 5).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    y, expected = layer(ours), SCALES[start] * bn(theirs)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=1e-12)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(layer.bias.grad, bn.bias.grad / SCALES[start], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(layer.bn.running_var, bn.running_var, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize('make', LAYERS)
def test_unknown_start_is_a_message(make):
    with pytest.raises(ValueError, match="start is 'zero'; expected 'paper' .* or 'bn'"):
        make(3, start='zero')


def test_start_bn_needs_a_weight():
    with pytest.raises(ValueError, match="start='bn' needs affine=True"):
        IEBatchNorm2d(3, start='bn', affine=False)
    assert IEBatchNorm2d(3, affine=False).start == 'paper'


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=['deepcopy', 'pickle'])
def test_copies_and_reset_keep_it(copied):
    layer = copied(IEBatchNormAct2d(3, start='bn', freeze_gate_weight=True))
    initial = state(layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1)
    layer.reset_parameters()
    assert state(layer) == initial and not layer.gate_weight.requires_grad


def test_a_layer_pickled_before_there_was_a_choice_is_the_papers():
    layer = IEBatchNorm2d(3)
    del layer.start  # what the attributes of such a layer lack
    layer.reset_parameters()
    assert state(layer)['weight'] == [1.0] * 3 and "start='paper'" in repr(layer)


def test_from_norm_keeps_it():
    norm = IEBatchNorm2d(3, start='bn', freeze_gate_weight=True)
    layer = IEBatchNormAct2d.from_norm(norm, nn.ReLU())
    assert layer.start == 'bn' and not layer.gate_weight.requires_grad


def test_a_converted_norm_has_start_bn():
    layer, _ = convert_bn_to_iebn(nn.BatchNorm2d(3))
    converted = state(layer)
    layer.reset_parameters()
    assert layer.start == 'bn' and state(layer) == converted == state(IEBatchNorm2d(3, start='bn'))


@pytest.mark.parametrize('make', LAYERS)
@pytest.mark.parametrize('start', STARTS)
def test_a_frozen_gate_weight_leaves_a_batch_norm_with_the_scale_weight_times_gate(make, start):
    torch.manual_seed(0)
    layer = make(4, start=start, freeze_gate_weight=True, dtype=torch.float64)
    assert 'freeze_gate_weight=True' in repr(layer) and 'freeze' not in repr(make(4))
    optimizer = torch.optim.SGD(layer.parameters(), 0.5, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (layer(torch.randn(3, 4, 5, 5, dtype=torch.float64)) * torch.randn(3, 4, 5, 5)).sum().backward()
        optimizer.step()
    assert layer.gate_weight.grad is None and layer.gate_weight.tolist() == [0.0] * 4
    assert (layer.gate_bias != -1).all()  # the constant gate is trained
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    scale = layer.weight * torch.sigmoid(layer.gate_bias)
    expected = nn.functional.batch_norm(x, None, None, scale, layer.bias, training=True)
    expected = expected.relu() if make is IEBatchNormAct2d else expected
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=1e-12)
