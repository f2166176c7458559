"""The child of a layer: it normalizes, owns the statistics, and shows the weight and the bias of the layer."""
import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.layers.statistics import BatchNormStatistics2d, is_plain, own_weight_and_bias
from iebn_zoo.util.errors import UsageError
from tests.support.layers import randomized

layers = pytest.mark.parametrize('layer_class', [IEBatchNorm2d, IEBatchNormAct2d])


def assert_shown(layer):
    assert type(layer.bn) is BatchNormStatistics2d
    assert layer.bn.weight is layer.weight and layer.bn.bias is layer.bias
    assert own_weight_and_bias(layer.bn) == (None, None)
    assert not [key for key in layer.state_dict() if key in ('bn.weight', 'bn.bias')] and not list(
        layer.bn.parameters())


def assign(layer):
    layer.load_state_dict({k: v.clone() for k, v in randomized(layer, 1).state_dict().items()}, assign=True)
    return layer


def move(layer):
    was = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        return layer.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(was)


def new_parameter(layer):
    layer.weight = nn.Parameter(torch.full((4,), 3.0))
    return layer


def through_the_child(layer):
    layer.bn.weight = nn.Parameter(torch.full((4,), 3.0))
    assert layer.weight.tolist() == [3.0] * 4
    return layer


def back_from_sync(layer):
    """As the scripts do that turn SyncBatchNorm into BatchNorm2d again."""
    layer = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    assert type(layer.bn) is nn.SyncBatchNorm
    layer.add_module('bn', nn.BatchNorm2d(4, affine=False))
    return layer


@layers
@pytest.mark.parametrize('change', [
    lambda layer: layer, assign, move, new_parameter, through_the_child, back_from_sync, copy.deepcopy,
    lambda layer: pickle.loads(pickle.dumps(layer)), lambda layer: layer.to('meta'),
    lambda layer: IEBatchNormAct2d.from_norm(layer, nn.ReLU())],
    ids=['new', 'assign', 'move', 'set', 'set_by_child', 'sync', 'deepcopy', 'pickle', 'meta', 'from_norm'])
def test_the_child_shows_what_the_layer_has_now(layer_class, change):
    assert_shown(change(layer_class(4)))


def test_without_a_weight():
    layer = IEBatchNorm2d(4, affine=False)
    assert layer.bn.weight is None and layer.bn.bias is None
    full = IEBatchNorm2d(4)
    full.bn.bias = None
    assert full.bias is None and full.bn.bias is None and full(torch.randn(2, 4, 3, 3)).shape == (2, 4, 3, 3)


def test_a_shallow_copy_leaves_the_child_to_the_layer():
    layer = IEBatchNorm2d(4)
    twin = copy.copy(layer)
    assert twin.bn is layer.bn
    del twin
    assert_shown(layer)


def test_the_network_is_freed_at_once():
    layer = IEBatchNorm2d(4)
    child, reference = layer.bn, weakref.ref(layer)
    gc.disable()
    try:
        del layer
        assert reference() is None
    finally:
        gc.enable()
    assert child.weight is None and child.bias is None
    with pytest.raises(UsageError, match='cannot set weight of a BatchNormStatistics2d whose IEBN layer is gone'):
        child.weight = nn.Parameter(torch.ones(4))


def test_files_hold_a_plain_batch_norm():
    """As those of releases before this class: both read what the other has written."""
    layer = randomized(IEBatchNorm2d(4, momentum=None, eps=1e-3)).eval()
    written = pickle.dumps(layer)
    assert b'BatchNorm2d' in written and b'BatchNormStatistics2d' not in written
    child = copy.deepcopy(layer.bn)
    assert type(child) is nn.BatchNorm2d and child.weight is None and is_plain(child)
    assert (child.eps, child.momentum, child.affine, child.training) == (1e-3, None, False, False)
    x = torch.randn(3, 4, 5, 5)
    assert torch.equal(pickle.loads(written)(x), layer(x))
    torch.testing.assert_close(child(x), layer.bn(x), atol=0, rtol=0)


@pytest.mark.parametrize('kwargs', [{}, {'momentum': None}, {'momentum': 0.3}, {'track_running_stats': False}], ids=str)
@pytest.mark.parametrize('script', [False, True], ids=['eager', 'script'])
@pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::DeprecationWarning')
def test_the_child_by_itself_is_batch_norm_without_weight_and_bias(kwargs, script):
    layer, plain = randomized(IEBatchNorm2d(4, **kwargs)), nn.BatchNorm2d(4, affine=False, **kwargs)
    plain.load_state_dict(layer.bn.state_dict())
    child = torch.jit.script(layer.bn) if script else layer.bn
    for training in (True, False, True):
        x = torch.randn(3, 4, 5, 5)
        assert torch.equal(child.train(training)(x), plain.train(training)(x))
    for key, value in plain.state_dict().items():
        assert torch.equal(child.state_dict()[key], value)
    with pytest.raises(Exception, match='4D'):
        child(torch.randn(3, 4))


def test_a_loop_that_freezes_every_batch_norm_spares_the_gate():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), IEBatchNorm2d(4))
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()
            m.weight.requires_grad = m.bias.requires_grad = False
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ['1.weight', '1.bias']
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    assert model[1].weight.grad is None and model[1].gate_bias.grad is not None


def test_the_child_fused_into_a_convolution_is_loud():
    """Whoever fuses it puts an identity in its place, and that has no statistics."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), IEBatchNorm2d(4)).eval()
    model[0], model[1].bn = fuse_conv_bn_eval(model[0], model[1].bn), nn.Identity()
    with pytest.raises(AttributeError, match='running_mean'):
        model(torch.randn(2, 3, 4, 4))


@layers
def test_a_layer_that_shares_its_child_still_shows_a_weight(layer_class):
    first, second = layer_class(4), layer_class(4)
    second.add_module('bn', first.bn)
    assert first.bn is second.bn and first.bn.weight is second.weight


def test_a_child_that_is_set_shows_the_layer_s_weight():
    layer = IEBatchNorm2d(4)
    layer.bn = nn.BatchNorm2d(4, affine=False)
    assert type(layer.bn) is BatchNormStatistics2d and layer.bn.weight is layer.weight
    layer.bn = nn.SyncBatchNorm(4, affine=False)
    assert type(layer.bn) is nn.SyncBatchNorm
