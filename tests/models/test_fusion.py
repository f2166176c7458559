"""Networks with the activations inside the norms compute what the separate modules compute."""
import copy

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

import iebn_zoo
from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d

SMALL = {
    'iebn_resnet18': 64, 'iebn_resnet50': 64, 'iebn_resnet50d': 64, 'iebn_resnext50_32x4d': 64,
    'iebn_resnet20_cifar': 16, 'iebn_resnext29_8x32d_cifar': 8, 'iebn_preresnet164_cifar': 8, 'iebn_wrn16_8_cifar': 8}


def pair(name, **kwargs):
    torch.manual_seed(0)
    stages = 3 if name.endswith('_cifar') else 4
    kwargs = {'layers': (1, 2, 1, 1)[:stages], 'channels': (16, 32, 64, 128)[:stages], **kwargs}
    fused = timm.create_model(name, num_classes=7, **kwargs).double()
    plain = timm.create_model(name, num_classes=7, fuse_act=False, **kwargs).double()
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    plain.load_state_dict(fused.state_dict())
    return fused, plain


@pytest.mark.parametrize('name', SMALL)
def test_fused_network_equals_the_separate_one(name):
    fused, plain = pair(name)
    assert any(isinstance(m, IEBatchNormAct2d) for m in fused.modules())
    assert not any(isinstance(m, IEBatchNormAct2d) for m in plain.modules())
    assert list(fused.state_dict()) == list(plain.state_dict())
    x = torch.randn(3, 3, SMALL[name], SMALL[name], dtype=torch.float64)
    for training in (True, False):
        outputs = [m.train(training)(x) for m in (fused, plain)]
        torch.testing.assert_close(*outputs, atol=1e-10, rtol=1e-10)
        for model, y in zip((fused, plain), outputs, strict=True):
            model.zero_grad()
            y.square().sum().backward()
        for (key, a), b in zip(fused.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=1e-9 * (1 + b.grad.abs().max().item()), rtol=1e-8, msg=key)
        for (key, a), b in zip(fused.named_buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10, msg=key)


def test_fused_network_equals_the_formula():
    """Every layer replaced by the oracle: the operator and the fusion at once."""
    class Formula(IEBatchNorm2d):
        def forward(self, x):
            return iebn_zoo.ops.reference.ie_batch_norm(
                x, self.bn.running_mean, self.bn.running_var, self.weight, self.bias, self.gate_weight, self.gate_bias,
                self.bn.training)

    fused, plain = pair('iebn_resnet20_cifar')
    for module in plain.modules():
        if type(module) is IEBatchNorm2d:
            module.__class__ = Formula
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    for model in (fused, plain):
        model(x).square().sum().backward()
    for (key, a), b in zip(fused.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-9 * (1 + b.grad.abs().max().item()), rtol=1e-8, msg=key)
    torch.testing.assert_close(fused.eval()(x), plain.eval()(x), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize('name, expected, all_norms', [
    ('iebn_resnet50', 49, 49), ('iebn_resnet18', 17, 17), ('iebn_resnet50d', 51, 51), ('iebn_resnet20_cifar', 19, 19),
    ('iebn_resnet164_cifar', 163, 163), ('iebn_wrn28_10_cifar', 25, 25)])
def test_every_norm_before_a_relu_is_fused(name, expected, all_norms):
    model = timm.create_model(name, device='meta')
    norms = [m for m in model.modules() if isinstance(m, IEBatchNorm2d)]
    assert len(norms) == all_norms and sum(isinstance(m, IEBatchNormAct2d) for m in norms) == expected


@pytest.mark.parametrize('kwargs', [
    {'act_layer': nn.SiLU}, {'drop_path_rate': 0.2}, {'drop_block_rate': 0.1}, {'block_args': {'attn_layer': 'se'}},
    {'aa_layer': nn.AvgPool2d}, {'gate_downsample': True}, {'zero_init_last': True}], ids=lambda k: next(iter(k)))
def test_what_stands_in_between_is_kept(kwargs):
    fused, plain = pair('iebn_resnet50', **kwargs)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for training in (False, True):
        outputs = []
        for model in (fused, plain):
            torch.manual_seed(1)
            outputs.append(model.train(training)(x))
        torch.testing.assert_close(*outputs, atol=1e-9, rtol=1e-9)


def test_drop_path_set_too_late_is_an_error():
    model = timm.create_model('iebn_resnet20_cifar')
    model.layer1[0].drop_path = DropPath(0.1)
    with pytest.raises(RuntimeError, match='drop_path_rate'):
        model(torch.randn(2, 3, 16, 16))


def test_networks_of_other_norms_are_timm_s():
    model = timm.create_model('bn_resnet20_cifar')
    assert type(model.bn1) is nn.BatchNorm2d and type(model.act1) is nn.ReLU


def test_compiles_without_a_break():
    torch._dynamo.reset()
    model = timm.create_model('iebn_resnet20_cifar', layers=(1, 1, 1))
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend='aot_eager')
    x = torch.randn(4, 3, 16, 16)
    for training in (True, False):
        torch.testing.assert_close(compiled.train(training)(x), model.train(training)(x), atol=1e-4, rtol=1e-4)
    torch._dynamo.reset()
