"""State dicts of BN networks: converted exactly, for every model, and refused where they do not fit."""
import copy

import pytest
import timm
import torch
from torch import nn

from iebn_zoo import IEBatchNorm2d
from iebn_zoo.models.bn_checkpoint import checkpoint_filter_fn
from tests.models.test_registry import IMAGENET
from tests.support.models.bn_networks import SMALL, TOLERANCE, bn_network, images, relative_error

ONE_A_BLOCK = ('iebn_resnet18', 'iebn_resnet50', 'iebn_resnext50_32x4d', 'iebn_resnetaa50d')
# at full depth and width; small networks of all names run with real numbers
FULL_SIZE = ('iebn_resnet18', 'iebn_resnet101s', 'iebn_resnet200d', 'iebn_resnetblur101d', 'iebn_resnext101_32x32d',
             'iebn_wide_resnet101_2')
# small images and channels, but every layer
FULL_DEPTH = ('iebn_resnet26d', 'iebn_resnext101_32x4d', 'iebn_resnet152')
GATED = 'layer1.0.bn2'
SHORTCUT = 'layer2.0.downsample.1'


def converted(name, bn, **kwargs):
    model = timm.create_model(name, **kwargs).eval()
    model.load_state_dict(checkpoint_filter_fn(bn.state_dict(), model))
    return model


@pytest.mark.parametrize('name', FULL_SIZE)
def test_structure_at_full_size(name):
    model = timm.create_model(name, device='meta')
    bn = timm.create_model(name.removeprefix('iebn_'), device='meta').state_dict()
    shapes = {key: value.shape for key, value in checkpoint_filter_fn(bn, model).items()}
    assert shapes == {key: value.shape for key, value in model.state_dict().items()}


@torch.no_grad()
@pytest.mark.parametrize('name', IMAGENET)
def test_same_function(name):
    bn = bn_network(name.removeprefix('iebn_'), num_classes=10, **SMALL)
    expected = bn(images())
    for gate_downsample in (False, True):
        model = converted(name, bn, num_classes=10, gate_downsample=gate_downsample, **SMALL)
        plain = [m for m in model.modules() if type(m) is nn.BatchNorm2d and m.affine]
        assert bool(plain) != gate_downsample
        assert relative_error(model(images()), expected) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize('name', FULL_DEPTH)
def test_full_depth(name):
    """The same function in float64; in float32 as near to it as the BN network is, which rounds as much."""
    x, kwargs = images(), dict(num_classes=10, channels=SMALL['channels'])
    bn = bn_network(name.removeprefix('iebn_'), **kwargs)
    torch.optim.swa_utils.update_bn([images(batch=8)], bn)  # else the activations grow from block to block
    model, rounded = converted(name, bn.eval(), **kwargs)(x), bn(x)
    bn = bn.double()
    exact = bn(x.double())
    wide = timm.create_model(name, **kwargs).double().eval()
    wide.load_state_dict(checkpoint_filter_fn(bn.state_dict(), wide))
    assert relative_error(wide(x.double()), exact) <= 1e-13
    assert relative_error(model, exact) <= 2 * relative_error(rounded, exact) + 5e-7


@pytest.mark.parametrize('name', ONE_A_BLOCK)
def test_same_function_in_training(name):
    bn = bn_network(name.removeprefix('iebn_'), num_classes=10, **SMALL)
    model = converted(name, bn, num_classes=10, **SMALL).double().train()
    bn = bn.double().train()
    x = images(batch=4).double()
    assert relative_error(model(x), bn(x)) <= 1e-6  # the weights were divided in float32
    theirs = dict(bn.named_buffers())
    for key, value in model.named_buffers():
        torch.testing.assert_close(value, theirs[key.replace('.bn.', '.')], rtol=1e-6, atol=1e-6, msg=key)
    model(x).square().sum().backward()
    gates = {key: p.grad for key, p in model.named_parameters() if 'gate_' in key}
    assert gates and all(grad.isfinite().all() and grad.any() for grad in gates.values())


def test_values():
    bn = bn_network('resnet18', num_classes=10, **SMALL).state_dict()
    before = copy.deepcopy(bn)
    model = timm.create_model('iebn_resnet18', num_classes=10, **SMALL)
    out = checkpoint_filter_fn(bn, model)
    assert list(bn) == list(before) and all(torch.equal(bn[k], before[k]) for k in bn)  # the source is not changed
    gate = torch.sigmoid(torch.tensor(-1., dtype=torch.float64))
    for name, m in model.named_modules():
        if isinstance(m, IEBatchNorm2d):
            torch.testing.assert_close(out[f'{name}.weight'].double() * gate, bn[f'{name}.weight'].double(),
                                       rtol=1.3e-7, atol=0)
            assert torch.equal(out[f'{name}.bias'], bn[f'{name}.bias'])
            assert not out[f'{name}.gate_weight'].any() and (out[f'{name}.gate_bias'] == -1).all()
            for key in ('running_mean', 'running_var', 'num_batches_tracked'):
                assert torch.equal(out[f'{name}.bn.{key}'], bn[f'{name}.{key}']) and f'{name}.{key}' not in out
    others = [key for key in bn if key in out and 'bn' not in key]
    assert f'{SHORTCUT}.running_mean' in others and 'fc.weight' in others
    assert all(out[key] is bn[key] for key in others)


@torch.no_grad()
@pytest.mark.parametrize('dtype, tolerance', [
    (torch.float16, TOLERANCE), (torch.bfloat16, TOLERANCE), (torch.float64, 1e-14)], ids=str)
def test_weights_of_other_precision(dtype, tolerance):
    # the BN network that holds the rounded weights is the one to compare with
    compute = torch.promote_types(dtype, torch.float32)
    bn = bn_network('resnet50', num_classes=10, **SMALL).to(compute).to(dtype)
    model = timm.create_model('iebn_resnet50', num_classes=10, **SMALL).to(compute).eval()
    out = checkpoint_filter_fn(bn.state_dict(), model)
    assert out[f'{GATED}.weight'].dtype == compute
    model.load_state_dict(out)
    x = images().to(compute)
    assert relative_error(model(x), bn.to(compute)(x)) <= tolerance


def test_checkpoint_without_batch_counts():
    # as torch wrote them before 0.4.1, and as some converters still do
    state_dict = {k: v for k, v in bn_network('resnet18', **SMALL).state_dict().items()
                  if not k.endswith('num_batches_tracked')}
    model = timm.create_model('iebn_resnet18', **SMALL)
    model.load_state_dict(checkpoint_filter_fn(state_dict, model))
    assert model.bn1.bn.num_batches_tracked == 0


@pytest.mark.parametrize('gate_downsample', [False, True])
def test_iebn_checkpoint_passes_unchanged(gate_downsample):
    torch.manual_seed(0)
    model = timm.create_model('iebn_resnet50', gate_downsample=gate_downsample, **SMALL)
    state_dict = model.state_dict()
    out = checkpoint_filter_fn(state_dict, model)
    assert list(out) == list(state_dict) and all(out[key] is state_dict[key] for key in out)
    assert checkpoint_filter_fn(out, model) == out


def bn_dict(**kwargs):
    return bn_network('resnet18', **{**SMALL, **kwargs}).state_dict()


def iebn_dict(**kwargs):
    return timm.create_model('iebn_resnet18', **SMALL, **kwargs).state_dict()


def without(state_dict, *names):
    return {key: value for key, value in state_dict.items() if key not in names}


def one_of_the_other(gated, plain):
    """``gated`` with one norm of ``plain`` in the place of its own."""
    return {**{k: v for k, v in gated.items() if not k.startswith(f'{GATED}.')},
            **{k: v for k, v in plain.items() if k.startswith(f'{GATED}.')}}


# the state dict, arguments of the model, and what the message says
MISTAKES = {
    'one norm is BN': (lambda: one_of_the_other(iebn_dict(), bn_dict()), {}, (
        'neither of a BN nor of an IEBN', '1 have none', GATED, 'Expected gates for all 11')),
    'one norm is IEBN': (lambda: one_of_the_other(bn_dict(), iebn_dict()), {}, (
        'neither of a BN nor of an IEBN', '1 norms have gates', GATED)),
    'one norm is both': (lambda: {**bn_dict(), **iebn_dict()}, {}, ('11 of its 15 norms', 'bn1', 'running_mean (64,)')),
    'a gate is missing': (lambda: without(iebn_dict(), f'{GATED}.gate_bias'), {},
                          (GATED, 'gate_weight (16,)', 'shape (16,)')),
    'a weight is missing': (lambda: without(bn_dict(), f'{GATED}.weight'), {}, (GATED, 'bias (16,)')),
    'a statistic is missing': (lambda: without(bn_dict(), 'bn1.running_var'), {}, ('1 of its', 'bn1')),
    'a shortcut is missing': (lambda: {k: v for k, v in bn_dict().items() if not k.startswith(SHORTCUT)}, {},
                              (SHORTCUT, 'there is nothing')),
    'another width': (lambda: bn_dict(channels=(24, 32, 64, 128)), {}, ('layer1.0.bn1', '(24,)', 'shape (16,)')),
    'shapes of the reference': (lambda: {**iebn_dict(), f'{GATED}.gate_weight': torch.zeros(1, 16, 1, 1)}, {},
                                (GATED, '(1, 16, 1, 1)')),
    'no tensor': (lambda: {**bn_dict(), f'{GATED}.weight': 1.0}, {}, (GATED,)),
    'prefixed': (lambda: {f'module.{key}': value for key, value in bn_dict().items()}, {},
                 ('nothing', "'module.conv1.weight'")),
    'gated shortcuts for plain ones': (lambda: iebn_dict(gate_downsample=True), {}, (SHORTCUT, 'gate_downsample=True')),
    'plain shortcuts for gated ones': (lambda: iebn_dict(), {'gate_downsample': True},
                                       (SHORTCUT, 'gate_downsample=False')),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes(mistake):
    make, kwargs, words = MISTAKES[mistake]
    # num_classes differs, so that timm itself would load without strict and say nothing
    with pytest.raises(ValueError) as e:
        timm.create_model('iebn_resnet18', pretrained=True, num_classes=3, **SMALL, **kwargs,
                          pretrained_cfg_overlay=dict(state_dict=make()))
    message = str(e.value)
    assert 'iebn_resnet18' in message and len(message.splitlines()) == 3
    for word in words:
        assert word in message, message


def test_empty_state_dict():
    with pytest.raises(ValueError, match='there is nothing; the first key is None'):
        checkpoint_filter_fn({}, timm.create_model('iebn_resnet18', device='meta'))
