"""What two norms share is shared afterwards too, or refused; one norm at two places stays one norm."""
import copy

import pytest
import timm.layers
import torch
from torch import nn

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d, convert_bn_to_iebn, convert_iebn_to_bn, fold_gates
from iebn_zoo.util.errors import UsageError
from tests.support.conversion.folded_networks import images
from tests.support.layers import randomized

X = images(4)
TO_BN = {'convert': lambda model: convert_iebn_to_bn(model)[0], 'fold': lambda model: fold_gates(model, X)[0]}
to_bn = pytest.mark.parametrize('convert', TO_BN.values(), ids=TO_BN)


def network(norm=IEBatchNorm2d):
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 1), norm(4), nn.Conv2d(4, 4, 1), norm(4))).eval()
    for layer in model[1::2]:
        if isinstance(layer, IEBatchNorm2d):
            nn.init.zeros_(layer.gate_weight)
    return model


def tie(first, second, name):
    owner, _, key = name.rpartition('.')
    first, second = (m.get_submodule(owner) for m in (first, second))
    setattr(second, key, getattr(first, key))


@to_bn
@pytest.mark.parametrize('name, after', [
    ('bias', ['bias']), ('bn.running_mean', ['running_mean']), ('bn.num_batches_tracked', ['num_batches_tracked']),
    ('bn', ['running_mean', 'running_var', 'num_batches_tracked']), ('gate_bias', [])])
def test_what_is_shared_stays_shared(convert, name, after):
    model = network()
    tie(model[1], model[3], name)
    expected = copy.deepcopy(model)(X)
    converted = convert(model)
    first, second = converted[1], converted[3]
    shared = [key for key in first.state_dict() if getattr(first, key) is getattr(second, key)]
    assert shared == after and first is not second
    torch.testing.assert_close(converted(X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', ['bias', 'running_mean', 'running_var'])
def test_what_two_batch_norms_share_stays_shared(name):
    model = network(nn.BatchNorm2d)
    tie(model[1], model[3], name)
    expected = copy.deepcopy(model)(X)
    first, second = convert_bn_to_iebn(model)[0][1::2]
    first, second = (m if name == 'bias' else m.bn for m in (first, second))
    assert getattr(first, name) is getattr(second, name)
    torch.testing.assert_close(model(X), expected, rtol=1e-5, atol=1e-5)


@to_bn
def test_a_bias_that_is_shared_with_another_layer(convert):
    model = network()
    model[2].bias = model[1].bias
    model[1].bias.grad = torch.ones(4)
    converted = convert(model)
    assert converted[2].bias is converted[1].bias and converted[1].bias.grad is None


@to_bn
@pytest.mark.parametrize('other', ['1.weight', '2.bias', '3.bias', '3.gate_bias'])
def test_a_shared_weight_is_refused(convert, other):
    model = network()
    owner, _, key = other.rpartition('.')
    model[3].weight = model.get_submodule(owner).get_parameter(key)
    before = list(model.modules())
    with pytest.raises(UsageError, match=r'^[13] \(IEBatchNorm2d\) cannot become a BatchNorm2d: it shares its weight '
                                         r'with [1-3]\.\w+, and .*\nUntie them first: layer.weight = '):
        convert(model)
    assert list(model.modules()) == before
    model[3].weight = nn.Parameter(model[3].weight.detach().clone())
    if other == '1.weight':
        expected = copy.deepcopy(model)(X)
        torch.testing.assert_close(convert(model)(X), expected, rtol=1e-5, atol=1e-5)


def test_a_shared_bias_that_cannot_stay_is_refused():
    model = timm.layers.unfreeze_batch_norm_2d(timm.layers.freeze_batch_norm_2d(network()))
    model[3].bias = model[1].bias  # the child, which has a bias of its own now, adds it inside of the gate
    with pytest.raises(UsageError, match='shares its bias with 3.bias.*\n.*layer.bias = '):
        fold_gates(model, X)


@to_bn
def test_statistics_of_another_dtype_are_those_of_the_parameters(convert):
    model = network()
    model[1].bn.double()
    assert {t.dtype for t in convert(model)[1].state_dict().values()} == {torch.float32, torch.int64}


def shared_act(between, behind):
    layer = randomized(IEBatchNormAct2d(3))
    nn.init.zeros_(layer.gate_weight)
    return nn.Sequential(layer, *between, nn.Conv2d(3, 3, 1), layer, *behind).eval()


@to_bn
def test_a_layer_with_an_activation_at_two_places_stays_one_layer(convert):
    for behind, kind in ((), timm.layers.BatchNormAct2d), ((nn.Identity(),), nn.BatchNorm2d):
        model = shared_act([nn.Identity()], behind)
        expected = copy.deepcopy(model)(X)
        converted = convert(model)
        assert converted[0] is converted[3] and type(converted[0]) is kind
        torch.testing.assert_close(converted(X), expected, rtol=1e-5, atol=1e-5)


def test_the_hooks_of_two_places_are_not_merged():
    model, seen = shared_act([nn.Identity()], [nn.Identity()]), []
    for place in (1, 4):
        model[place].register_forward_hook(lambda module, args, y, place=place: seen.append((place, y.clone())))
    model(X)
    convert_iebn_to_bn(model)[0](X)
    assert [place for place, _ in seen] == [1, 4, 1, 4]
    for (_, before), (_, after) in zip(seen[:2], seen[2:], strict=True):
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
