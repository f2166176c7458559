"""The batch-noise measure against its definition, and the network afterwards."""
import copy
import random

import numpy as np
import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.ops.reference import ie_batch_norm
from iebn_zoo.studies.noise import add_norm_noise
from iebn_zoo.studies.noise.measure import LayerNoise, mean_batch_noise, measure_batch_noise
from iebn_zoo.util.errors import UsageError
from tests.support.layers import randomized

KINDS = {'bn': nn.BatchNorm2d, 'bn_act': BatchNormAct2d, 'iebn': IEBatchNorm2d, 'iebn_act': IEBatchNormAct2d}
PROBES, ROUNDS = 4, 3


def batches(size=5, rounds=ROUNDS, same=False):
    """Two probes a batch, in another order each round, among random companions."""
    generator = torch.Generator().manual_seed(1)
    probes = torch.randn(PROBES, 3, size, 4, generator=generator) + torch.arange(PROBES)[:, None, None, None]
    found = []
    for i in range(rounds):
        for ids in ((torch.tensor([0, 2]), torch.tensor([1, 3])) if i % 2 else (torch.tensor([3, 1]),
                                                                                torch.tensor([2, 0]))):
            images = torch.cat([probes[ids], torch.randn(6, 3, size, 4, generator=generator)])
            found.append((images, ids))
    if same:  # every probe always among the same companions
        found = [(probes, torch.arange(PROBES))] * rounds
    return found


def definition(norm, given):
    gated = isinstance(norm, IEBatchNorm2d)
    outputs = np.zeros((PROBES, ROUNDS, 3, *given[0][0].shape[2:]))
    round_of = [0] * PROBES
    for images, ids in given:
        gate_weight, gate_bias = (norm.gate_weight, norm.gate_bias) if gated else (torch.zeros(3), torch.zeros(3))
        y = ie_batch_norm(images, None, None, norm.weight, norm.bias, gate_weight, gate_bias, training=True)
        for row, i in enumerate(ids.tolist()):
            outputs[i, round_of[i]] = y[row].detach().numpy()
            round_of[i] += 1
    assert round_of == [ROUNDS] * PROBES
    outputs = outputs[:, :, :, ::outputs.shape[3] // 8 + 1]  # at most 8 rows are looked at
    return outputs.var(1, ddof=1).mean(), outputs.mean(1).var(0, ddof=1).mean()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [5, 19])
def test_equals_its_definition_before_the_activation(kind, size):
    norm = randomized(KINDS[kind](3))
    given = batches(size)
    (layer,) = measure_batch_noise(nn.Sequential(norm, nn.ReLU(inplace=True)), given, PROBES)
    within, between = definition(norm, given)
    # a plain norm has half the scale of the definition's gate of 1/2 and the same ratio; its bias drops out
    scale = 1 if isinstance(norm, IEBatchNorm2d) else 4
    assert layer.layer == '0' and layer.channels == 3
    assert layer.batch_variance == pytest.approx(scale * within, rel=1e-4)
    assert layer.instance_variance == pytest.approx(scale * between, rel=1e-4)
    assert layer.batch_noise == pytest.approx(within / between, rel=1e-4)


def _network(norm):
    sizes = dict(num_classes=4, channels=(4, 4, 8), stem_width=4, drop_rate=0.5, drop_path_rate=0.5)
    return randomized(timm.create_model(f'{norm}_resnet20_cifar', **sizes))


@pytest.mark.parametrize('norm', ['bn', 'iebn'])
def test_the_network_and_the_generators_are_left_as_they_were(norm):
    model = _network(norm)
    model.layer2.eval()
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    layers = measure_batch_noise(model, batches(8), PROBES)
    assert len(layers) == 21 and all(layer.batch_noise > 0 for layer in layers)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_an_error_on_the_way_leaves_the_network_too():
    model = _network('iebn')
    before = copy.deepcopy(model.state_dict())

    def broken():
        yield from batches(8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_batch_noise(model, broken(), PROBES)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize('norm', ['bn', 'iebn'])
def test_no_noise_where_the_companions_are_the_same_in_spite_of_dropout(norm):
    layers = measure_batch_noise(_network(norm), batches(8, same=True), PROBES)
    assert all(layer.batch_variance == 0 for layer in layers)


def test_does_not_depend_on_the_scale_of_a_norm():
    norm = randomized(IEBatchNormAct2d(3))
    (a,) = measure_batch_noise(norm, batches(), PROBES)
    with torch.no_grad():
        norm.weight.mul_(8)
    (b,) = measure_batch_noise(norm, batches(), PROBES)
    assert b.batch_variance == pytest.approx(64 * a.batch_variance) and b.batch_noise == pytest.approx(a.batch_noise)


def test_the_attack_is_measured_as_trained():
    norm = randomized(IEBatchNorm2d(3))
    (clean,) = measure_batch_noise(norm.eval(), batches(), PROBES)
    add_norm_noise(norm, 2.0, 0.0)
    (attacked,) = measure_batch_noise(norm, batches(), PROBES)
    assert attacked.batch_variance == pytest.approx(4 * clean.batch_variance)


def test_what_cannot_be_measured():
    with pytest.raises(UsageError, match='no batch normalization'):
        measure_batch_noise(nn.Conv2d(3, 3, 1), batches(), PROBES)
    with pytest.raises(UsageError, match='at least two'):
        measure_batch_noise(nn.BatchNorm2d(3), batches(rounds=1), PROBES)


def test_a_layer_whose_weight_is_still_zero_has_no_ratio_and_is_left_out_of_the_mean():
    dead, alive = LayerNoise('a', 3, 0., 0.), LayerNoise('b', 3, 1., 4.)
    assert np.isnan(dead.batch_noise) and mean_batch_noise([dead, alive]) == 0.25
    assert np.isnan(mean_batch_noise([dead]))
