"""The networks of this folder can tell: their logits change when gates are dropped."""
import pytest
import torch

from tests.support.contracts.networks import NETWORKS, constant_gates, difference, images, network, no_gates


@pytest.mark.parametrize('name', NETWORKS)
def test_a_dropped_gate_shows(name):
    model, x = network(name), images(8, 1)
    with torch.no_grad():
        y = model(x)
        assert y.isfinite().all() and 0.01 < y.std() < 100
        assert difference(constant_gates(model)(x), y) > 0.05
        assert difference(no_gates(model)(x), y) > 0.05
