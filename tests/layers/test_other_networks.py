"""The layer as ``norm_layer`` of torchvision's and timm's families, whose initializations loop over BatchNorm2d."""
import copy
import re
from functools import partial

import pytest
import timm
import timm.optim
import torch
import torchvision
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from torch import nn
from torchvision.models import densenet, efficientnet, mobilenet, regnet, resnet

import iebn_zoo
from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d, convert_bn_to_iebn, iebn_norm_act
from iebn_zoo.ops import reference
from iebn_zoo.util.errors import UsageError
from tests.support.layers import randomized
from tests.support.paths import ROOT

BLOCKS = (1, 1, 1, 1)
MBCONV = partial(efficientnet.MBConvConfig, 4, 3)


def efficientnet_of_torchvision(norm_layer):
    return efficientnet.EfficientNet(
        [MBCONV(1, 32, 16, 1), MBCONV(2, 16, 24, 2)], 0.0, num_classes=3, norm_layer=norm_layer)


def regnet_of_torchvision(norm_layer):
    blocks = regnet.BlockParams.from_init_params(depth=4, w_0=16, w_a=10.0, w_m=2.0, group_width=8, se_ratio=0.25)
    return regnet.RegNet(blocks, num_classes=3, norm_layer=norm_layer)


TORCHVISION = {
    'resnet': lambda norm: resnet.ResNet(resnet.BasicBlock, BLOCKS, 3, norm_layer=norm),
    'resnext': lambda norm: resnet.ResNet(
        resnet.Bottleneck, BLOCKS, 3, groups=4, width_per_group=4, norm_layer=norm),
    'mobilenet_v2': lambda norm: mobilenet.MobileNetV2(3, width_mult=0.25, norm_layer=norm),
    'mobilenet_v3': lambda norm: mobilenet.mobilenet_v3_small(
        num_classes=3, width_mult=0.25, norm_layer=norm, dropout=0.0),
    'efficientnet': efficientnet_of_torchvision,
    'regnet': regnet_of_torchvision,
}


def repvgg(norm_layer, **kwargs):
    cfg = ByoModelCfg(
        (ByoBlockCfg('rep', d=2, c=16, s=2), ByoBlockCfg('rep', d=1, c=24, s=2)), stem_type='rep', stem_chs=16)
    return ByobNet(cfg, num_classes=3, norm_layer=norm_layer, **kwargs)


def timm_model(name, **kwargs):
    return lambda norm: timm.create_model(name, num_classes=3, norm_layer=norm, **kwargs)


TIMM = {  # and the activation
    'efficientnet': (timm_model('test_efficientnet'), nn.SiLU),
    'densenet': (timm_model('densenet121', growth_rate=8, block_config=(2, 2)), nn.ReLU),
    'resnetv2': (timm_model('resnetv2_50', layers=BLOCKS, channels=(16, 32, 32, 64), stem_chs=16), nn.ReLU),
    'regnet': (timm_model('regnety_002', depth=8, w0=8, wa=12., wm=2.5, group_size=4), nn.ReLU),
    'repvgg': (repvgg, nn.ReLU),
}
FAMILIES = {
    **{f'torchvision_{name}': (build, IEBatchNorm2d) for name, build in TORCHVISION.items()},
    **{f'timm_{name}': (build, iebn_norm_act) for name, (build, _) in TIMM.items()},
}


class Formula(nn.Module):
    """The oracle in the place of an IEBN layer in eval mode."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.behind = [layer.drop, layer.act] if isinstance(layer, IEBatchNormAct2d) else []

    def forward(self, x):
        layer = self.layer
        y = reference.ie_batch_norm(
            x, layer.bn.running_mean, layer.bn.running_var, layer.weight, layer.bias, layer.gate_weight,
            layer.gate_bias, training=False, eps=layer.bn.eps)
        for module in self.behind:
            y = module(y)
        return y


def by_formula(model):
    model = copy.deepcopy(model)
    for parent in [m for m in model.modules() if not isinstance(m, IEBatchNorm2d)]:
        for name, child in list(parent.named_children()):
            if isinstance(child, IEBatchNorm2d):
                setattr(parent, name, Formula(child))
    return model


def gated(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, IEBatchNorm2d)}


def values(parameter):
    return parameter.detach().unique().tolist()


@pytest.fixture(params=FAMILIES, scope='module')
def fresh(request):
    build, norm = FAMILIES[request.param]
    torch.manual_seed(0)
    model = build(norm)
    torch.manual_seed(0)
    return model, build(nn.BatchNorm2d)


def test_the_network_s_own_initialization_is_that_of_the_batch_norm_network(fresh):
    """Weights of 1, zeroed ones, and the random ones of RepVGG: what a loop sets arrives at the layer, once."""
    model, plain = fresh
    layers, expected = gated(model), dict(plain.named_parameters())
    assert list(layers) == [name for name, m in plain.named_modules() if isinstance(m, nn.BatchNorm2d)]
    found = {name: p for name, p in model.named_parameters(remove_duplicate=False) if 'gate_' not in name}
    assert found.keys() == expected.keys()
    for name, parameter in found.items():
        assert torch.equal(parameter, expected[name]), name
    for name, layer in layers.items():
        assert values(layer.gate_weight) == [0] and values(layer.gate_bias) == [-1], name
    assert len(model.state_dict()) == len(plain.state_dict()) + 2 * len(layers)
    groups = timm.optim.param_groups_weight_decay(model, weight_decay=0.1)
    assert sum(len(group['params']) for group in groups) == len(expected) + 2 * len(layers)


def test_step_and_evaluation(fresh):
    model, _ = fresh
    model = randomized(copy.deepcopy(model)).double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    model.train()(x).square().sum().backward()
    optimizer.step()
    for name, layer in gated(model).items():
        for key, parameter in layer.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), f'{name}.{key}'
        assert not torch.equal(layer.bn.running_mean, before[f'{name}.bn.running_mean']), name
    assert sum(float(layer.gate_weight.grad.abs().sum()) > 0 for layer in gated(model).values()) == len(gated(model))
    with torch.no_grad():
        y = model.eval()(x)
        expected = by_formula(model)(x)
        twin = randomized(copy.deepcopy(model), seed=1)
        twin.load_state_dict(model.state_dict())
        scale = expected.abs().max()
        assert scale > 0 and y.isfinite().all() and (y - expected).abs().max() < 1e-9 * scale
        assert torch.equal(twin(x), y)


@pytest.mark.parametrize('name', TIMM)
def test_timm_s_families_keep_their_activation(name):
    build, act = TIMM[name]
    acts = [type(layer.act) for layer in gated(build(iebn_norm_act)).values()]
    assert acts == [type(m.act) for m in build(nn.BatchNorm2d).modules() if isinstance(m, nn.BatchNorm2d)]
    assert set(acts) <= {act, nn.Identity} and (act in acts or name == 'repvgg')  # whose blocks have it themselves


@pytest.mark.parametrize('name', [
    'resnet18', 'resnext50_32x4d', 'wide_resnet50_2', 'mobilenet_v2', 'mobilenet_v3_large', 'efficientnet_b0'])
def test_functions_of_torchvision(name):
    with torch.device('meta'):
        model = torchvision.models.get_model(name, norm_layer=IEBatchNorm2d)
        plain = torchvision.models.get_model(name)
    assert len(gated(model)) == sum(isinstance(m, nn.BatchNorm2d) for m in plain.modules())


def test_the_weight_that_starts_at_zero():
    model = resnet.ResNet(resnet.Bottleneck, BLOCKS, 3, norm_layer=IEBatchNorm2d, zero_init_residual=True)
    for name, layer in gated(model).items():
        assert values(layer.weight) == [0 if name.endswith('bn3') else 1], name


def test_densenet_of_torchvision_is_converted():
    """It has no norm_layer argument."""
    model = densenet.DenseNet(8, (2, 2), 16, num_classes=3)
    names = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    x = torch.randn(2, 3, 32, 32)
    expected = copy.deepcopy(model).eval()(x)
    model, _ = convert_bn_to_iebn(model)
    assert list(gated(model)) == names
    torch.testing.assert_close(model.eval()(x), expected, atol=1e-5, rtol=1e-5)


def initialize(model):
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.constant_(m.weight, 1)
            nn.init.constant_(m.bias, 0)


@pytest.mark.parametrize('build', [
    lambda: nn.Sequential(IEBatchNorm2d(4, start='bn')),
    lambda: TORCHVISION['resnet'](partial(IEBatchNorm2d, start='bn'))], ids=['loop', 'network'])
def test_a_loop_sets_the_weight_whatever_the_start(build):
    """Who sets weight to 1 gets 1: the layer then starts as the paper's. Its own reset brings the start back."""
    model = build()
    initialize(model)
    for layer in gated(model).values():
        assert values(layer.weight) == [1] and layer.start == 'bn'
        layer.reset_parameters()
        assert values(layer.weight) == pytest.approx([1 + torch.e])


def test_a_converted_network_starts_as_its_batch_norm_did():
    model, _ = convert_bn_to_iebn(TORCHVISION['resnet'](nn.BatchNorm2d), gate_shortcuts=True)
    for layer in gated(model).values():
        assert values(layer.weight) == pytest.approx([1 + torch.e])


def test_repvgg_is_not_reparameterized_without_its_gates():
    model = repvgg(iebn_norm_act)
    with pytest.raises((AssertionError, AttributeError)):
        timm.utils.model.reparameterize_model(model)


def test_the_activation_is_not_guessed():
    with pytest.raises(UsageError, match=r'iebn_norm_act\(64\) was not given the activation(.*\n.*){2}act_layer=') as e:
        timm.create_model('resnet18', norm_layer=iebn_norm_act)
    assert len(str(e.value).splitlines()) == 3 and 'IEBatchNorm2d' in str(e.value)
    layer = iebn_norm_act(4, act_layer='gelu', eps=1e-3, start='bn', device='meta')
    assert type(layer) is IEBatchNormAct2d and layer.bn.eps == 1e-3 and layer.start == 'bn' and layer.weight.is_meta
    assert isinstance(layer.act, timm.layers.GELU | nn.GELU)
    for without in (iebn_norm_act(4, apply_act=False), iebn_norm_act(4, act_layer=None)):
        assert type(without.act) is nn.Identity


def test_arguments_of_every_layer():
    model = timm.create_model('test_efficientnet', norm_layer=partial(iebn_norm_act, eps=1e-3, momentum=0.01))
    assert {(layer.bn.eps, layer.bn.momentum) for layer in gated(model).values()} == {(1e-3, 0.01)}
    assert nn.SiLU in {type(layer.act) for layer in gated(model).values()}


def test_a_function_is_found_by_name():
    layer = timm.layers.create_norm_act_layer(iebn_zoo.iebn_norm_act, 4, act_layer='silu')
    assert type(layer) is IEBatchNormAct2d and type(layer.act) is nn.SiLU


def test_what_the_readme_shows():
    text = (ROOT / 'iebn_zoo/layers/README.md').read_text(encoding='utf-8')
    section = text.partition('## In other networks')[2].partition('\n## ')[0]
    blocks = re.findall(r'^```python\n(.*?)^```', section, flags=re.M | re.S)
    names = {'iebn_zoo': iebn_zoo}
    for block in blocks:
        with torch.device('meta'):
            exec(block, names)
    assert len(blocks) == 2 and len(gated(names['model'])) > 100
