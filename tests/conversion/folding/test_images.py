"""In which forms images may come, and that each of them counts the same."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from iebn_zoo import IEBatchNorm2d, fold_gates
from iebn_zoo.conversion.folding.statistics import GateMoments, collect_gates
from tests.support.conversion.folded_networks import images, network
from tests.support.layers import randomized

X = images(7).double()
TARGETS = torch.arange(7)


@pytest.mark.parametrize('form', [
    lambda: X.clone(), lambda: [X[:4], X[4:]], lambda: ((x, None) for x in X.split(3)), lambda: [[X, TARGETS, 'names']],
    lambda: DataLoader(TensorDataset(X, TARGETS), batch_size=2), lambda: [X[:0], X], lambda: X.float(),
], ids=['tensor', 'list', 'generator', 'triples', 'loader', 'an-empty-batch', 'another-dtype'])
def test_forms(form):
    expected = fold_gates(network(), X)[0].state_dict()
    folded, report = fold_gates(network(), form(), form())
    assert report.images == report.agreement.images == 7
    for key, value in folded.state_dict().items():
        torch.testing.assert_close(value, expected[key], atol=1e-14, rtol=1e-14)


def test_images_not_batches_are_averaged():
    uneven = [X[:1], X[1:]]
    whole, parts = (collect_gates(network(), form)[0] for form in (X, uneven))
    halves = [collect_gates(network(), batch)[0] for batch in uneven]
    for name, moments in whole.items():
        torch.testing.assert_close(parts[name].mean, moments.mean, atol=1e-15, rtol=0)
        torch.testing.assert_close(parts[name].variance, moments.variance, atol=1e-15, rtol=1e-12)
        average_of_batches = (halves[0][name].mean + halves[1][name].mean) / 2
        assert (average_of_batches - moments.mean).abs().max() > 1e-3


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), scale=st.sampled_from([0.0, 1e-6, 1.0, 30.0]))
def test_moments_do_not_depend_on_the_batches(sizes, scale):
    layer = randomized(IEBatchNorm2d(3))
    generator = torch.Generator().manual_seed(sum(sizes))
    x = scale * torch.randn(sum(sizes), 3, 2, 2, generator=generator, dtype=torch.float64)
    moments = GateMoments(layer)
    for batch in x.split(sizes):
        moments.update(batch)
    gates = torch.sigmoid(layer.gate_weight.double() * x.mean((2, 3)) + layer.gate_bias.double())
    assert moments.count == len(x)
    torch.testing.assert_close(moments.mean, gates.mean(0), atol=1e-15, rtol=0)
    torch.testing.assert_close(moments.variance.sqrt(), gates.std(0, correction=0), atol=1e-15, rtol=1e-12)


def test_sizes_may_differ():
    model = network()
    small, large = images(2, 8).double(), images(3, 16).double()
    folded, report = fold_gates(model, [small, large])
    alone = [collect_gates(model, batch)[0]['1'] for batch in (small, large)]
    mean = (2 * alone[0].mean + 3 * alone[1].mean) / 5
    torch.testing.assert_close(folded[1].weight, model[1].weight * mean)
    assert report.images == 5
