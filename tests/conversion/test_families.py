"""The converted network is the same function, in eval and in training, and its gates learn."""
import copy
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from iebn_zoo import IEBatchNorm2d, convert_bn_to_iebn
from iebn_zoo.conversion import ConversionReport
from tests.support.conversion.networks import NETWORKS, Network, relative_error


class Pair(NamedTuple):
    network: Network
    original: nn.Module
    converted: nn.Module
    report: ConversionReport
    x: Tensor


@pytest.fixture(params=NETWORKS, ids=lambda network: network.name, scope='module')
def pair(request):
    original = request.param.create()
    converted, report = convert_bn_to_iebn(copy.deepcopy(original))
    return Pair(request.param, original, converted, report, request.param.input())


def batch_norms(model):
    """The plain norms and the children of gated ones under one name, for both networks."""
    named = dict(model.named_modules())
    children = {f'{name}.bn' for name, m in named.items() if isinstance(m, IEBatchNorm2d)}
    return {name.removesuffix('.bn') if name in children else name: m
            for name, m in named.items() if isinstance(m, nn.BatchNorm2d)}


def step(model, x):
    """Logits and the gradient of x of one training step; random drops fall alike."""
    model.train().zero_grad()
    torch.manual_seed(4)
    x = x.clone().requires_grad_()
    logits = model(x)
    logits.square().sum().backward()
    model.eval()
    return logits, x.grad


def test_which_norms(pair):
    assert len(pair.report.converted) == pair.network.gated
    assert sum(isinstance(m, IEBatchNorm2d) for m in pair.converted.modules()) == pair.network.gated
    assert [layer.note.split(',')[0] for layer in pair.report.left] == ['is in a shortcut'] * pair.network.shortcuts


def test_training(pair):
    """Before test_eval, which then sees running statistics that have moved."""
    logits, gradient = step(pair.converted, pair.x)
    expected, expected_gradient = step(pair.original, pair.x)
    assert relative_error(logits, expected) <= 1e-10
    assert relative_error(gradient, expected_gradient) <= 1e-10
    statistics = batch_norms(pair.converted)
    norms = batch_norms(pair.original)
    assert statistics.keys() == norms.keys()
    for name, norm in norms.items():
        for key, value in norm.named_buffers():
            torch.testing.assert_close(statistics[name].get_buffer(key), value, rtol=1e-10, atol=1e-12)
    gated = {name: m for name, m in pair.converted.named_modules() if isinstance(m, IEBatchNorm2d)}
    assert len(gated) == pair.network.gated
    for layer in gated.values():
        assert layer.gate_weight.grad.abs().max() > 0 and layer.gate_bias.grad.abs().max() > 0


def test_eval(pair):
    with torch.no_grad():
        assert relative_error(pair.converted(pair.x), pair.original(pair.x)) <= 1e-10


def test_the_gates_matter(pair):
    """The agreement would say nothing if the gates were not in the computation."""
    changed = copy.deepcopy(pair.converted)
    layer = next(m for m in changed.modules() if isinstance(m, IEBatchNorm2d))
    with torch.no_grad():
        layer.gate_weight.fill_(0.5)
        assert relative_error(changed(pair.x), pair.original(pair.x)) > 1e-4


@pytest.mark.parametrize('network', NETWORKS, ids=lambda network: network.name)
def test_float32(network):
    """As near to the float64 network as the BN network is, to 1e-6 of the largest logit.

    A tighter bound on the distance between the two would be one on float32 itself, which errs by 0.3e-6 to 5e-6 here.
    """
    model, x = network.create(torch.float32), network.input(torch.float32)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        rounding = relative_error(model(x), exact)
        converted, _ = convert_bn_to_iebn(model)
        assert converted is model
        assert relative_error(converted(x), exact) <= 2 * rounding + 1e-6
