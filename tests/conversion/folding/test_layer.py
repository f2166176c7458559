"""One layer, in all its variants, becomes the BatchNorm that multiplies by the given gate."""
import copy

import pytest
import timm.layers
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d, convert_bn_to_iebn, convert_iebn_to_bn, fold_gates
from iebn_zoo.conversion.folding.layer import to_batch_norm
from iebn_zoo.conversion.folding.replace import replace_by_batch_norm
from iebn_zoo.util.errors import UsageError
from tests.support.conversion.folded_networks import images, zoo_model
from tests.support.layers import randomized


def thaw(layer):
    return randomized(timm.layers.unfreeze_batch_norm_2d(timm.layers.freeze_batch_norm_2d(layer)))


def freeze_affine(layer):
    return timm.layers.freeze_batch_norm_2d(thaw(layer))


VARIANTS = {
    'plain': lambda: IEBatchNorm2d(4, eps=1e-2, momentum=None),
    'without-affine': lambda: IEBatchNorm2d(4, affine=False),
    'without-statistics': lambda: IEBatchNorm2d(4, track_running_stats=False),
    'float64': lambda: IEBatchNorm2d(4, dtype=torch.float64),
    'sync': lambda: nn.SyncBatchNorm.convert_sync_batchnorm(randomized(IEBatchNorm2d(4))),
    'frozen': lambda: timm.layers.freeze_batch_norm_2d(randomized(IEBatchNorm2d(4))),
    'affine-child': lambda: thaw(IEBatchNorm2d(4)),
    'frozen-affine-child': lambda: freeze_affine(IEBatchNorm2d(4)),
    'split': lambda: timm.layers.convert_splitbn_model(randomized(IEBatchNorm2d(4))),
}


@pytest.mark.parametrize('make', VARIANTS.values(), ids=VARIANTS)
def test_variants(make):
    layer = make()
    layer = (layer if layer.bn.__class__ is not nn.BatchNorm2d else randomized(layer)).eval()
    gate = torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=torch.float64)
    norm = to_batch_norm(layer, gate)
    constant = copy.deepcopy(layer)
    with torch.no_grad():  # the layer itself with its gates held at these values
        constant.gate_weight.zero_()
        constant.gate_bias.copy_(torch.logit(gate))
    x = images(5, 6)[:, [0, 1, 2, 0]].to(layer.gate_bias.dtype)
    torch.testing.assert_close(norm(x), constant(x))
    assert type(norm) is nn.BatchNorm2d and norm.affine and not norm.training
    assert norm.eps == layer.bn.eps and norm.weight.dtype == layer.gate_bias.dtype
    assert norm.momentum == getattr(layer.bn, 'momentum', 0.1)
    assert norm.track_running_stats == (layer.bn.running_mean is not None)


def test_attributes_are_kept():
    layer = IEBatchNorm2d(4)
    layer.weight.requires_grad_(False)
    layer.bn.num_batches_tracked.fill_(7)
    layer.bn.eval()
    norm = to_batch_norm(layer, torch.full((4,), 0.5))
    assert (norm.weight.requires_grad, norm.bias.requires_grad) == (False, True)
    assert norm.num_batches_tracked == 7 and not norm.training
    assert to_batch_norm(IEBatchNorm2d(4), torch.full((4,), 0.5)).training


def test_what_is_not_learned_is_frozen():
    half = torch.full((4,), 0.5)
    norm = to_batch_norm(IEBatchNorm2d(4, affine=False), half)
    assert (norm.weight.requires_grad, norm.bias.requires_grad) == (True, False)
    layer, _ = convert_bn_to_iebn(nn.BatchNorm2d(4, affine=False))
    norm = to_batch_norm(layer, half)
    assert not norm.weight.requires_grad and norm.bias is None
    layer.weight.requires_grad_()
    assert to_batch_norm(layer, layer.weight.detach().reciprocal()).weight.requires_grad  # it may be trained
    layer = IEBatchNorm2d(4, affine=False).requires_grad_(False)
    assert not any(p.requires_grad for p in to_batch_norm(layer, half).parameters())


def test_rounded_once():
    layer = randomized(IEBatchNorm2d(4)).bfloat16()
    gate = torch.rand(4, dtype=torch.float64)
    assert torch.equal(to_batch_norm(layer, gate).weight, (layer.weight.double() * gate).bfloat16())


def test_refused():
    layer = IEBatchNorm2d(4)
    with pytest.raises(UsageError, match=r'4 channels, got \(3,\)'):
        to_batch_norm(layer, torch.ones(3))
    layer.bn = nn.GroupNorm(2, 4)
    with pytest.raises(UsageError, match="child GroupNorm into a BatchNorm2d"):
        to_batch_norm(layer, torch.ones(4))


class Block(nn.Module):
    """Not of ours: nobody knows whether its ``act`` is called behind ``bn``."""

    def __init__(self, norm):
        super().__init__()
        self.bn, self.again, self.act = norm, norm, nn.Identity()

    def forward(self, x):
        return self.act(self.again(self.bn(x)))


def test_other_networks_keep_the_activation_in_the_norm():
    layer = randomized(IEBatchNormAct2d(3, act_layer='silu', drop_layer=nn.Dropout)).eval()
    model = Block(layer)
    x = images(6)
    folded, report = fold_gates(model, x)
    assert type(folded.bn) is BatchNormAct2d and folded.again is folded.bn and type(folded.act) is nn.Identity
    assert type(folded.bn.act) is nn.SiLU and type(folded.bn.drop) is nn.Dropout
    seen = [x.mean((2, 3)), layer(x).mean((2, 3))]  # a layer that runs twice has twice as many gates
    gates = torch.sigmoid(layer.gate_weight * torch.cat(seen) + layer.gate_bias).mean(0)
    torch.testing.assert_close(folded.bn.weight, layer.weight * gates)
    assert [gates.layer for gates in report.layers] == ['bn']


def test_an_identity_that_is_not_called_takes_no_activation():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn1, self.act1 = randomized(IEBatchNormAct2d(3)), nn.Identity()

        def forward(self, x):
            return self.bn1(x)

    folded, _ = fold_gates(Skips(), images(3))
    assert type(folded.bn1) is BatchNormAct2d
    assert folded(images(3)).min() == 0


def test_the_model_may_be_a_layer():
    folded, report = fold_gates(IEBatchNormAct2d(3), images(2))
    assert type(folded) is BatchNormAct2d and report.layers[0].layer == ''


def test_sequential_gets_its_activation_back():
    act = nn.ReLU()
    model = nn.Sequential(IEBatchNormAct2d.from_norm(IEBatchNorm2d(3), act), nn.Identity())
    replaced = replace_by_batch_norm(model, {'0': torch.ones(3)})
    assert replaced is model and type(model[0]) is nn.BatchNorm2d and model[1] is act


def test_a_shortcut_is_never_lost():
    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = IEBatchNormAct2d(3)

        def forward(self, x):
            return self.norm(x, residual=x)

    with pytest.raises(UsageError, match="Adds has its layer 'norm' add a shortcut"):
        fold_gates(Adds(), images(2))
    model = zoo_model()
    model.layer1[0].act2 = nn.SiLU()
    with pytest.raises(UsageError, match='IEBNBasicBlock.bn2 computes the activation.*\n.*fuse_act=False'):
        fold_gates(model, images(2))


class AddsInNorm(nn.Module):
    """A user's block: the norm takes the shortcut, by position."""

    def __init__(self):
        super().__init__()
        self.norm = IEBatchNormAct2d(3)

    def forward(self, x):
        return self.norm(x, x)


@pytest.mark.parametrize('act', ['relu', None])
def test_a_shortcut_is_never_lost_where_no_image_is_run(act):
    """Nobody sees the call before it is made: then it fails, whichever norm stands there."""
    for model in (AddsInNorm(), nn.Sequential(nn.Conv2d(3, 3, 1), AddsInNorm())):
        block = model if type(model) is AddsInNorm else model[1]
        if act is None:
            block.norm.act = nn.Identity()
        converted, _ = convert_iebn_to_bn(model)
        assert type(block.norm) is (nn.BatchNorm2d if act is None else BatchNormAct2d)
        with pytest.raises(TypeError, match='takes 2 positional arguments but 3 were given'):
            converted(images(2))


@pytest.mark.parametrize('block', [0, 2])
def test_an_identity_that_is_gone_is_found_before_anything_is_replaced(block):
    model = zoo_model()
    blocks = [model.layer1[0], model.layer2[0], model.layer3[0]]
    del blocks[block].act2
    structure = repr(model)
    gates = {n: torch.ones(m.num_features) for n, m in model.named_modules() if isinstance(m, IEBatchNorm2d)}
    with pytest.raises(UsageError, match='no identity stands where that was'):
        replace_by_batch_norm(model, gates)
    assert repr(model) == structure and all(b.norm_adds_shortcut for b in blocks)


def test_refused_before_anything_is_replaced():
    model = zoo_model()
    model.layer3[0].bn1.bn = nn.GroupNorm(2, 64)
    structure = repr(model)
    gates = {n: torch.ones(m.num_features) for n, m in model.named_modules() if isinstance(m, IEBatchNorm2d)}
    with pytest.raises(UsageError, match='GroupNorm'):
        replace_by_batch_norm(model, gates)
    assert repr(model) == structure and model.layer1[0].norm_adds_shortcut
    del gates['bn1']
    with pytest.raises(KeyError, match='bn1'):
        replace_by_batch_norm(model, gates)
