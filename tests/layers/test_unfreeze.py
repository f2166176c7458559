"""The way back from timm's freeze: the child is the plain one of before, and nothing is lost on the way."""
import copy
import pickle

import pytest
import timm.layers
import timm.utils
import torch
from torch import nn

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d, unfreeze_batch_norm_2d
from iebn_zoo.layers.statistics import is_plain
from iebn_zoo.util.errors import UsageError
from tests.support.layers import randomized

modes = pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])


@pytest.fixture
def model():
    """Norms of all kinds, and momenta and counts that no default brings back."""
    torch.manual_seed(0)
    model = randomized(nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), IEBatchNorm2d(6, eps=1e-3, momentum=0.3), nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), IEBatchNormAct2d(6, momentum=None, affine=False)))
    model[1].bn.num_batches_tracked.fill_(7)
    model[5].bn.num_batches_tracked.fill_(5)
    model[1].bn.momentum = 0.02  # set later than by the constructor
    return model


@pytest.fixture
def x():
    return torch.randn(4, 3, 9, 8) + 0.5


def freeze_in_place(model):
    timm.utils.freeze(model)
    return model


def freeze_children_by_name(model):
    timm.utils.freeze(model, ['1.bn', '5.bn', '4'])
    return model


def freeze_and_unfreeze_by_timm(model):
    return timm.layers.unfreeze_batch_norm_2d(timm.layers.freeze_batch_norm_2d(model))


def freeze_a_copy_and_pickle(model):
    frozen = timm.layers.freeze_batch_norm_2d(copy.deepcopy(model))
    return pickle.loads(pickle.dumps(copy.deepcopy(frozen)))


def assert_plain(model, original):
    for index in (1, 5):
        child, expected = model[index].bn, original[index].bn
        assert is_plain(child) and type(child) is type(expected) and not child.affine
        assert child.weight is model[index].weight and child.bias is model[index].bias
        assert (child.eps, child.momentum, child.track_running_stats, child.num_features) == (
            expected.eps, expected.momentum, expected.track_running_stats, expected.num_features)
        assert repr(child) == repr(expected)
    state = model.state_dict()
    assert set(state) == set(original.state_dict())
    for key, value in original.state_dict().items():
        if not key.startswith('4.num'):  # of a norm of timm's own business
            assert torch.equal(state[key], value) and state[key].dtype == value.dtype, key


@modes
@pytest.mark.parametrize('freeze', [
    timm.layers.freeze_batch_norm_2d, freeze_in_place, freeze_children_by_name, freeze_and_unfreeze_by_timm,
    freeze_a_copy_and_pickle], ids=lambda f: f.__name__)
def test_is_what_it_was(model, x, freeze, training):
    original = copy.deepcopy(model).train(training)
    thawed = unfreeze_batch_norm_2d(freeze(model.train(training)))
    assert_plain(thawed, original)
    norms = [thawed[1].bn, thawed[5].bn] + [thawed[4]] * (freeze is not freeze_and_unfreeze_by_timm)
    assert {norm.training for norm in norms} == {training}, 'a new norm keeps to the mode around it'
    thawed.train(training)
    for _ in range(2):  # the second time by what the first has made of the statistics
        torch.testing.assert_close(thawed(x), original(x))
    for key, value in original.state_dict().items():
        if not key.startswith('4.num'):
            torch.testing.assert_close(thawed.state_dict()[key], value, msg=key)


@pytest.mark.parametrize('freeze', [timm.layers.freeze_batch_norm_2d, freeze_in_place, freeze_children_by_name])
def test_a_frozen_network_and_one_that_is_not_load_each_others_weights(model, x, freeze):
    other = randomized(copy.deepcopy(model))
    frozen, state = freeze(copy.deepcopy(model)), model.state_dict()
    assert not [key for key in frozen.state_dict() if key.endswith(('bn.weight', 'bn.bias'))]
    fresh = copy.deepcopy(other)
    fresh.load_state_dict(frozen.state_dict())
    torch.testing.assert_close(fresh.eval()(x), frozen.eval()(x))
    for again in (freeze(copy.deepcopy(other)), pickle.loads(pickle.dumps(freeze(copy.deepcopy(other))))):
        again.load_state_dict(state)
        torch.testing.assert_close(again(x), model.eval()(x))
    frozen.load_state_dict(freeze(other).state_dict())
    torch.testing.assert_close(frozen(x), other.eval()(x))


def test_what_earlier_versions_saved_of_a_frozen_network_is_read(model, x):
    state = {**model.state_dict(), '1.bn.weight': torch.ones(6), '1.bn.bias': torch.zeros(6)}
    for network in (randomized(copy.deepcopy(model)), freeze_in_place(randomized(copy.deepcopy(model)))):
        network.load_state_dict(state)
        torch.testing.assert_close(network.eval()(x), copy.deepcopy(model).eval()(x))
    thawed = freeze_and_unfreeze_by_timm(randomized(copy.deepcopy(model)))  # it has them
    thawed.load_state_dict({**state, '5.bn.weight': torch.ones(6), '5.bn.bias': torch.zeros(6)})
    with pytest.raises(RuntimeError, match=r'Unexpected key.*1\.bn\.weight'):  # they do something
        model.load_state_dict({**state, '1.bn.weight': torch.full((6,), 2.0)})


def test_a_network_that_was_never_frozen_stays(model):
    original, modules = copy.deepcopy(model), list(model.modules())
    assert unfreeze_batch_norm_2d(model) is model
    assert_plain(model, original)
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))


def test_a_frozen_norm_by_itself():
    frozen = timm.layers.freeze_batch_norm_2d(nn.BatchNorm2d(3))
    assert type(unfreeze_batch_norm_2d(frozen)) is nn.BatchNorm2d


def test_timm_s_unfreeze_keeps_momentum_and_count(model):
    thawed = freeze_and_unfreeze_by_timm(model)
    assert thawed[1].bn.momentum == 0.02 and thawed[5].bn.momentum is None
    assert thawed[1].bn.num_batches_tracked == 7 and thawed[5].bn.num_batches_tracked == 5


@pytest.mark.parametrize('refreeze', [False, True], ids=['thawed', 'frozen'])
def test_a_trained_child_is_an_error(model, refreeze):
    model = freeze_and_unfreeze_by_timm(model)
    with torch.no_grad():
        model[5].bn.weight[2] = 1.5
    if refreeze:
        model = timm.layers.freeze_batch_norm_2d(model)
    before = list(model.modules())
    with pytest.raises(UsageError, match=r'5\.bn has a weight of 1 to 1\.5 and a bias of 0 to 0.*\n.*before you train'):
        unfreeze_batch_norm_2d(model)
    assert all(a is b for a, b in zip(model.modules(), before, strict=True)), 'nothing is changed'
    assert refreeze or model[1].bn.weight is not None


def test_a_thawed_child_that_became_a_synchronized_one(model):
    expected = copy.deepcopy(model).eval()
    synced = unfreeze_batch_norm_2d(nn.SyncBatchNorm.convert_sync_batchnorm(freeze_and_unfreeze_by_timm(model)))
    assert type(synced[1].bn) is nn.SyncBatchNorm and synced[1].bn.weight is None and not synced[1].bn.affine
    assert set(synced.state_dict()) == set(expected.state_dict())
    torch.testing.assert_close(synced[1].eval()(torch.ones(2, 6, 3, 3)), expected[1](torch.ones(2, 6, 3, 3)))


@pytest.mark.parametrize('layer_class', [IEBatchNorm2d, IEBatchNormAct2d])
@pytest.mark.parametrize('graph', [nn.Identity(), torch.jit.script, torch.fx.symbolic_trace],
                         ids=['eager', 'script', 'fx'])
def test_one_value_a_channel_is_enough_for_a_frozen_child(layer_class, graph):
    """Its mode says train, but it does not normalize by the batch."""
    model = randomized(nn.Sequential(layer_class(3)))
    x = torch.randn(1, 3, 1, 1)
    expected = copy.deepcopy(model).eval()(x)
    frozen = timm.layers.freeze_batch_norm_2d(model).train()
    torch.testing.assert_close(graph(frozen)(x), expected)
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        unfreeze_batch_norm_2d(frozen)(x)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64], ids=str)
def test_a_frozen_child_keeps_the_dtype(dtype):
    """FrozenBatchNorm2d makes its weight of float32: it must not promote what passes."""
    layer = randomized(IEBatchNorm2d(6)).to(dtype)
    x = torch.randn(4, 6, 5, 5, dtype=dtype)
    expected = copy.deepcopy(layer).eval()(x)
    frozen = timm.layers.freeze_batch_norm_2d(nn.Sequential(layer))
    assert {v.dtype for v in frozen.state_dict().values()} == {dtype}
    torch.testing.assert_close(frozen(x), expected, atol=0.05 if dtype == torch.bfloat16 else 1e-12, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_frozen_child_stays_on_the_gpu():
    layer, x = randomized(IEBatchNorm2d(6)).cuda(), torch.randn(4, 6, 5, 5, device='cuda')
    expected = copy.deepcopy(layer).eval()(x)
    frozen = timm.layers.freeze_batch_norm_2d(nn.Sequential(layer))
    torch.testing.assert_close(frozen(x), expected)
    assert {v.device.type for v in unfreeze_batch_norm_2d(frozen).state_dict().values()} == {'cuda'}


def test_a_frozen_child_under_autocast():
    frozen = timm.layers.freeze_batch_norm_2d(nn.Sequential(IEBatchNorm2d(6)))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert frozen(torch.randn(4, 6, 5, 5).bfloat16()).dtype == torch.bfloat16
