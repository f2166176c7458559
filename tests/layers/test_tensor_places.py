"""The layer reads its tensors without nn.Module's slow look-up, and finds them where tools put them."""
import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from tests.support.layers import randomized

layers = pytest.mark.parametrize('layer_class', [IEBatchNorm2d, IEBatchNormAct2d])
modes = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])


class Twice(nn.Module):
    def forward(self, x):
        return 2 * x


def doubled(layer):
    parametrize.register_parametrization(layer, 'gate_weight', Twice())
    return layer


def pruned(layer):
    prune.custom_from_mask(layer, 'weight', torch.tensor([1.0, 0.0, 1.0, 1.0]))
    return layer


def replica(layer):
    """As nn.DataParallel makes it: its parameters are plain tensors."""
    parameters = {name: p.detach().clone() for name, p in layer.named_parameters()}
    child = layer.bn._replicate_for_data_parallel()
    copied = layer._replicate_for_data_parallel()
    copied.bn = child
    for name, value in parameters.items():
        setattr(copied, name, value)
    return copied


def plain_attributes(layer):
    for name in ('running_mean', 'running_var'):
        value = getattr(layer.bn, name)
        delattr(layer.bn, name)
        setattr(layer.bn, name, value)
    return layer


def change_the_same(layer, change):
    with torch.no_grad():
        if change is doubled:
            layer.gate_weight.mul_(2)
        if change is pruned:
            layer.weight[1] = 0
    return layer


@layers
@modes
@pytest.mark.parametrize('change', [doubled, pruned, replica, plain_attributes])
def test_tensors_elsewhere(layer_class, training, change):
    layer = randomized(layer_class(4)).train(training)
    expected = change_the_same(copy.deepcopy(layer), change)
    x = torch.randn(3, 4, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(change(layer)(x), expected(x), atol=0, rtol=0)


@layers
def test_inference_needs_no_slow_look_up(layer_class, monkeypatch):
    """nn.Module.__getattr__ costs about as much as a small op, and a network for 32 px calls twenty layers."""
    layer, x, names = layer_class(4).eval(), torch.randn(1, 4, 5, 5), []
    found = nn.Module.__getattr__
    monkeypatch.setattr(nn.Module, '__getattr__', lambda self, name: names.append(name) or found(self, name))
    with torch.inference_mode():
        layer(x)
    assert names == []
