"""A single norm: every setting of BatchNorm2d and BatchNormAct2d survives the conversion."""
import copy
from functools import partial

import pytest
import torch
from timm.layers import BatchNormAct2d, DropBlock2d
from torch import nn

from iebn_zoo import IEBatchNormAct2d, convert_bn_to_iebn, convert_iebn_to_bn, fold_gates
from tests.support.layers import SIGMOID_INIT, randomized


def without_bias(**kwargs):
    norm = nn.BatchNorm2d(6, **kwargs)
    norm.register_parameter('bias', None)  # what bias=False does where torch has it
    return norm


def toggled(**kwargs):
    norm = nn.BatchNorm2d(6, **kwargs)
    norm.track_running_stats = False  # with statistics: eval uses them, training leaves them
    return norm


def without_statistics(**kwargs):
    norm = nn.BatchNorm2d(6, **kwargs)
    norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    return norm


BUILDS = {
    'plain': partial(nn.BatchNorm2d, 6),
    'eps': partial(nn.BatchNorm2d, 6, eps=0.1, momentum=0.3),
    'cumulative': partial(nn.BatchNorm2d, 6, momentum=None),
    'no_affine': partial(nn.BatchNorm2d, 6, affine=False),
    'no_bias': without_bias,
    'no_affine_act': partial(BatchNormAct2d, 6, affine=False),
    'no_statistics': partial(nn.BatchNorm2d, 6, track_running_stats=False),
    'nothing': partial(nn.BatchNorm2d, 6, affine=False, track_running_stats=False),
    'toggled': toggled,
    'statistics_removed': without_statistics,
    'relu': partial(BatchNormAct2d, 6),
    'silu': partial(BatchNormAct2d, 6, act_layer='silu'),
    'prelu': partial(BatchNormAct2d, 6, act_layer=nn.PReLU, act_kwargs=dict(num_parameters=6)),
    'no_act': partial(BatchNormAct2d, 6, apply_act=False),
    'drop': partial(BatchNormAct2d, 6, drop_layer=partial(DropBlock2d, drop_prob=0.3, block_size=2)),
}


def run(model, x, steps=2):
    """Outputs of some training steps and of eval, with the gradient of the input in each."""
    results = []
    for training in [True] * steps + [False]:
        model.train(training)
        torch.manual_seed(3)
        leaf = x.clone().requires_grad_()
        y = model(leaf)
        y.square().sum().backward()
        results += [y.detach(), leaf.grad]
    return results


@pytest.mark.parametrize('build', BUILDS.values(), ids=BUILDS)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=['float64', 'float32'])
def test_same_function(build, dtype):
    norm = randomized(build().to(dtype))
    layer, _ = convert_bn_to_iebn(copy.deepcopy(norm))
    x = torch.randn(4, 6, 7, 5, dtype=dtype, generator=torch.Generator().manual_seed(1)) * 2 + 0.5
    exact = dtype == torch.float64 and list(norm.state_dict())  # a norm without tensors has no dtype to follow
    tolerance = dict(rtol=1e-10, atol=1e-10) if exact else dict(rtol=1e-4, atol=1e-5)
    for actual, expected in zip(run(layer, x), run(norm, x), strict=True):
        torch.testing.assert_close(actual, expected, **tolerance)
    buffers = dict(norm.named_buffers(recurse=False))
    assert {k for k, _ in layer.bn.named_buffers()} == buffers.keys()
    for name, value in buffers.items():
        torch.testing.assert_close(layer.bn.get_buffer(name), value, **tolerance)
    settings = ('eps', 'momentum', 'track_running_stats', 'num_features')
    assert [getattr(layer.bn, s) for s in settings] == [getattr(norm, s) for s in settings]


@pytest.mark.parametrize('name', [name for name in BUILDS if name not in ('toggled', 'statistics_removed')])
def test_there_and_back(name):
    norm = randomized(BUILDS[name]())
    expected = copy.deepcopy(norm)
    back, _ = convert_iebn_to_bn(convert_bn_to_iebn(norm)[0])
    assert isinstance(back, nn.BatchNorm2d)
    x = torch.randn(4, 6, 7, 5, generator=torch.Generator().manual_seed(1))
    for actual, wanted in zip(run(back, x), run(expected, x), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)
    state, wanted = back.state_dict(), expected.state_dict()
    assert list(state) == list(wanted) and back.affine == expected.affine
    for key, value in wanted.items():
        torch.testing.assert_close(state[key], value, rtol=2e-7 if 'running' not in key else 1e-5, atol=1e-6)


def test_parameters():
    norm = randomized(nn.BatchNorm2d(6))
    weight, bias, mean = norm.weight, norm.bias, norm.running_mean
    norm.num_batches_tracked.fill_(7)
    layer, report = convert_bn_to_iebn(norm.eval())
    torch.testing.assert_close(layer.weight * SIGMOID_INIT, weight)
    assert (layer.gate_weight == 0).all() and (layer.gate_bias == -1).all()
    assert layer.bias is bias and layer.bn.running_mean is mean and layer.bn.num_batches_tracked == 7
    assert norm.weight is weight  # whoever else holds the norm keeps its function
    assert not layer.training and not layer.bn.training and not layer.bn.affine
    assert all(p.requires_grad for p in layer.parameters()) and report.converted[0].note == ''


def test_gradients():
    norm = randomized(nn.BatchNorm2d(6, dtype=torch.float64))
    layer, _ = convert_bn_to_iebn(copy.deepcopy(norm))
    x = torch.randn(4, 6, 7, 5, dtype=torch.float64)
    for module in (norm, layer):
        module(x).pow(3).sum().backward()
    torch.testing.assert_close(layer.weight.grad, norm.weight.grad * SIGMOID_INIT)
    torch.testing.assert_close(layer.bias.grad, norm.bias.grad)
    assert (layer.gate_weight.grad != 0).all() and (layer.gate_bias.grad != 0).all()


def test_training_flag_and_frozen_parameters():
    norm = nn.BatchNorm2d(6).train()
    norm.weight.requires_grad_(False)
    layer, _ = convert_bn_to_iebn(norm)
    assert layer.training and layer.bn.training
    assert [n for n, p in layer.named_parameters() if p.requires_grad] == ['bias']


def test_affine_false_gets_a_fixed_weight():
    layer, report = convert_bn_to_iebn(nn.BatchNorm2d(6, affine=False))
    torch.testing.assert_close(layer.weight, torch.full((6,), 1 / SIGMOID_INIT), rtol=1e-7, atol=0)
    assert layer.bias is None and not layer.weight.requires_grad
    assert layer.gate_weight.requires_grad and layer.gate_bias.requires_grad
    assert report.converted[0].note == 'had affine=False: has a fixed weight of 1/sigmoid(-1)'


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('back', [lambda model: convert_iebn_to_bn(model)[0],
                                  lambda model: fold_gates(model, torch.randn(2, 3, 5, 5))[0]], ids=['convert', 'fold'])
def test_a_norm_without_weight_or_bias_comes_back_without(dtype, back):
    model = nn.Sequential(nn.Conv2d(3, 6, 1), without_bias(), nn.BatchNorm2d(6, affine=False)).to(dtype)
    converted, _ = convert_bn_to_iebn(copy.deepcopy(model))
    returned = back(copy.deepcopy(converted))
    assert [type(p) for p in (returned[1].bias, returned[2].weight, returned[2].bias)] == [type(None)] * 3
    model.load_state_dict(returned.state_dict())
    with torch.no_grad():
        converted[2].gate_bias[3] = 0.5  # as training may
    returned = back(copy.deepcopy(converted))
    gate = torch.sigmoid(converted[2].gate_bias.detach().double())
    assert torch.equal(returned[2].weight, (converted[2].weight.double() * gate).to(dtype))
    assert returned[2].bias is None and not returned[2].weight.requires_grad


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_narrow_dtypes(dtype):
    norm = randomized(nn.BatchNorm2d(6, dtype=dtype)).eval()
    x = torch.randn(4, 6, 7, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = norm(x).detach()
    layer, _ = convert_bn_to_iebn(norm)
    assert {v.dtype for k, v in layer.state_dict().items() if 'tracked' not in k} == {dtype}
    y = layer(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected, rtol=0, atol=2 * torch.finfo(dtype).eps * float(expected.abs().max()))
    wide = torch.full((6,), 0.5, dtype=torch.float64) / SIGMOID_INIT
    half, _ = convert_bn_to_iebn(nn.Sequential(nn.BatchNorm2d(6)).to(dtype).apply(
        lambda m: isinstance(m, nn.BatchNorm2d) and nn.init.constant_(m.weight, 0.5)))
    assert torch.equal(half[0].weight.detach(), wide.to(dtype))  # rounded once


def test_meta_device():
    layer, _ = convert_bn_to_iebn(nn.BatchNorm2d(6, device='meta', dtype=torch.bfloat16))
    assert all(t.is_meta for t in layer.state_dict().values()) and layer.weight.dtype == torch.bfloat16


def test_norm_without_tensors_follows_the_model():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6, affine=False, track_running_stats=False)).double()
    layer = convert_bn_to_iebn(model)[0][1]
    assert {p.dtype for p in layer.parameters()} == {torch.float64}


def test_act_and_drop_are_kept():
    norm = BatchNormAct2d(6, act_layer='gelu', drop_layer=nn.Dropout2d)
    layer, _ = convert_bn_to_iebn(norm)
    assert type(layer) is IEBatchNormAct2d and layer.act is norm.act and layer.drop is norm.drop


def test_gradients_of_before_are_gone():
    norm = nn.BatchNorm2d(6)
    norm(torch.randn(2, 6, 3, 3)).sum().backward()
    layer, _ = convert_bn_to_iebn(norm)
    assert all(p.grad is None for p in layer.parameters())


@pytest.mark.parametrize('made_within', [False, True])
def test_under_inference_mode(made_within):
    """What comes out can be trained all the same."""
    x = torch.randn(4, 6, 7, 5)
    with torch.inference_mode(made_within):
        norm = nn.BatchNorm2d(6)
    with torch.inference_mode():
        layer, _ = convert_bn_to_iebn(norm)
        back, _ = convert_iebn_to_bn(copy.deepcopy(layer) if made_within else layer)
        folded, _ = fold_gates(layer, x)
    for module in (layer, back, folded):
        module.train()(x).square().sum().backward()
        assert not any(t.is_inference() for t in module.state_dict().values()) and module.weight.grad is not None
