"""The gates of each stage, against gates computed by hand."""
import copy

import pytest
import timm
import torch

from iebn_zoo import IEBatchNorm2d
from iebn_zoo.studies.noise.gate_stats import gate_statistics
from iebn_zoo.util.errors import UsageError
from tests.support.layers import SIGMOID_INIT, randomized


def _network(net='resnet20'):
    return timm.create_model(f'iebn_{net}_cifar', num_classes=4, channels=(4, 4, 8))


def test_new_gates_are_alike():
    columns = gate_statistics(_network(), torch.randn(5, 3, 8, 8))
    assert [k for k in columns if 'mean' in k] == [f'gate_mean_{s}' for s in ('stem', 'stage1', 'stage2', 'stage3')]
    assert len(columns) == 12
    for name, value in columns.items():
        assert value == pytest.approx(SIGMOID_INIT if 'mean' in name else 0, abs=1e-6)


def test_each_stage_by_hand_and_the_network_left_as_it_was():
    model, images = randomized(_network()), torch.randn(5, 3, 8, 8)
    before = copy.deepcopy(model.state_dict())
    gates = []

    def keep(layer, inputs):
        gates.append(torch.sigmoid(layer.gate_weight * inputs[0].mean((2, 3)) + layer.gate_bias))

    hooks = [m.register_forward_pre_hook(keep) for m in model.layer2.modules() if isinstance(m, IEBatchNorm2d)]
    columns = gate_statistics(model, images)
    for hook in hooks:
        hook.remove()
    together = torch.cat(gates, 1).double()
    assert columns['gate_mean_stage2'] == pytest.approx(float(together.mean()))
    assert columns['gate_spread_stage2'] == pytest.approx(float(together.std(correction=0)))
    assert columns['gate_instance_spread_stage2'] == pytest.approx(float(together.var(0, correction=0).mean().sqrt()))
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_norm_behind_the_last_stage_is_the_head():
    columns = gate_statistics(timm.create_model('iebn_wrn16_8_cifar', channels=(2, 2, 4)), torch.randn(2, 3, 8, 8))
    assert 'gate_mean_head' in columns and 'gate_mean_stem' not in columns


def test_a_network_without_gates():
    with pytest.raises(UsageError, match='no IEBN layer'):
        gate_statistics(timm.create_model('bn_resnet20_cifar'), torch.randn(2, 3, 8, 8))
