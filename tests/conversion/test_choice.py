"""Which norms are converted: shortcuts, filters, and agreement with the registered IEBN models."""
import re

import pytest
import timm
import torch
import torchvision
from torch import nn

import iebn_zoo.conversion as conversion
from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d, convert_bn_to_iebn
from iebn_zoo.layers.statistics import is_plain
from iebn_zoo.util.errors import UsageError


def on_meta(build):
    with torch.device('meta'):
        return build()


def small_resnet(**kwargs):
    return timm.create_model('resnet18', layers=(1, 1, 1, 1), channels=(8, 8, 16, 16), num_classes=3, **kwargs)


def converted_names(report):
    return [name for layer in report.converted for name in layer.names]


# (network, pattern of exactly the BatchNorm2d that stand in shortcuts)
SHORTCUTS = {
    'resnet34': r'layer\d\.0\.downsample\.1',
    'seresnext26d_32x4d': r'layer\d\.0\.downsample\.2',
    'legacy_seresnet18': r'layer\d\.0\.downsample\.1',
    'res2net50d': r'layer\d\.0\.downsample\.2',
    'regnety_002': r's\d\.b1\.downsample\.bn',
    'repvgg_a0': r'stages\.\d\.\d+\.identity',
    'gernet_s': r'stages\.\d\.0\.shortcut\.bn',
    'ghostnet_050': r'blocks\.\d\.\d\.shortcut\.\d',
    'legacy_xception': r'block\d+\.skipbn',
    'xception41': r'blocks\.\d+\.shortcut\.bn',
    'dpn68': r'features\.conv\d_1\.c1x1_w_s\d\.bn',
    'ghostnetv3_050': r'blocks\..*_rpr_skip.*|blocks\..*\.shortcut\.\d',
    'dla34': r'level\d(\.tree1)?\.project\.1',
    # a stage's downsample is on the main path
    'hgnetv2_b0': '-',
    'efficientformer_l1': '-',
    'repvit_m1': '-',
    'inception_next_atto': '-',
    'mobilenetv3_small_050': '-',
    'vgg11_bn': '-',
}


@pytest.mark.parametrize('name', SHORTCUTS)
def test_shortcuts_stay_plain(name):
    model = on_meta(lambda: timm.create_model(name))
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    _, report = convert_bn_to_iebn(model)
    assert converted_names(report) == [n for n in norms if not re.fullmatch(SHORTCUTS[name], n)]
    assert (len(report.converted) < len(norms)) == (SHORTCUTS[name] != '-')


def test_shortcuts_of_torchvision():
    model = torchvision.models.regnet_y_400mf()
    _, report = convert_bn_to_iebn(model)
    assert [layer.names[0] for layer in report.left] == [
        f'trunk_output.block{i}.block{i}-0.proj.1' for i in range(1, 5)]


def test_gate_shortcuts():
    model, report = convert_bn_to_iebn(small_resnet(), gate_shortcuts=True)
    assert not report.left and len(report.converted) == 13
    assert isinstance(model.layer2[0].downsample[1], IEBatchNorm2d)


@pytest.mark.parametrize('base, converted', [
    ('resnet18', 'iebn_resnet18'), ('resnet26t', 'iebn_resnet26t'), ('resnext50_32x4d', 'iebn_resnext50_32x4d'),
    ('resnetaa34d', 'iebn_resnetaa34d'), ('bn_resnet20_cifar', 'iebn_resnet20_cifar'),
    ('bn_preresnet164_cifar', 'iebn_preresnet164_cifar'), ('bn_wrn16_8_cifar', 'iebn_wrn16_8_cifar')])
@pytest.mark.parametrize('gate_shortcuts', [False, True])
def test_same_norms_as_the_registered_model(base, converted, gate_shortcuts):
    kwargs = dict(layers=(1, 2, 1) if 'cifar' in base else (1, 2, 1, 1))
    model, _ = convert_bn_to_iebn(on_meta(lambda: timm.create_model(base, **kwargs)), gate_shortcuts=gate_shortcuts)
    registered = on_meta(lambda: timm.create_model(converted, gate_downsample=gate_shortcuts, **kwargs))
    shapes, expected = ({k: v.shape for k, v in m.state_dict().items()} for m in (model, registered))
    assert shapes == expected
    assert model.pretrained_cfg['architecture'] == converted


@pytest.mark.parametrize('filter, expected', [
    ('layer4.*', ['layer4.0.bn1', 'layer4.0.bn2']),
    (['bn1', 'layer[12].0.bn1'], ['bn1', 'layer1.0.bn1', 'layer2.0.bn1']),
    (lambda name, module: module.num_features == 16 and name.endswith('bn2'), ['layer3.0.bn2', 'layer4.0.bn2']),
], ids=['glob', 'globs', 'function'])
def test_filter(filter, expected):
    model, report = convert_bn_to_iebn(small_resnet(), filter=filter)
    assert converted_names(report) == expected
    assert [n for n, m in model.named_modules() if isinstance(m, IEBatchNorm2d)] == expected
    assert {layer.note for layer in report.left if 'downsample' not in layer.names[0]} == {'is not chosen by filter'}


def test_a_filter_does_not_gate_shortcuts():
    _, report = convert_bn_to_iebn(small_resnet(), filter='layer3.*')
    assert converted_names(report) == ['layer3.0.bn1', 'layer3.0.bn2']
    _, report = convert_bn_to_iebn(small_resnet(), filter='*.downsample.1', gate_shortcuts=True)
    assert converted_names(report) == [f'layer{i}.0.downsample.1' for i in range(1, 5)]


def test_filter_that_fits_nothing():
    model = small_resnet()
    with pytest.raises(UsageError, match=r"'layer5\.\*' fits no norm.*\n.*'bn1', 'layer1.0.bn1'"):
        convert_bn_to_iebn(model, filter=['bn1', 'layer5.*'])
    with pytest.raises(UsageError, match='bn1 .BatchNorm2d. is not chosen by filter'):
        convert_bn_to_iebn(model, filter=lambda name, module: False)
    assert not any(isinstance(m, IEBatchNorm2d) for m in model.modules())


@pytest.mark.parametrize('filter', [5, [nn.BatchNorm2d], ['bn1', None], torch.ones(3, 3)],
                         ids=['int', 'class', 'none', 'tensor'])
def test_filter_of_another_kind(filter):
    with pytest.raises(UsageError, match='^filter is .*\n.*a glob, a list of globs'):
        convert_bn_to_iebn(small_resnet(), filter=filter)


def test_an_error_in_a_filter_changes_nothing():
    model = small_resnet()
    with pytest.raises(ZeroDivisionError):
        convert_bn_to_iebn(model, filter=lambda name, module: name == 'bn1' or 1 / 0)
    assert type(model.bn1) is nn.BatchNorm2d


def test_more_norms_can_be_converted_later():
    model, _ = convert_bn_to_iebn(small_resnet(), filter='layer1.*')
    model, report = convert_bn_to_iebn(model)
    assert {layer.names[0]: layer.note for layer in report.left if 'downsample' not in layer.names[0]} == {
        'layer1.0.bn1': 'is gated already', 'layer1.0.bn2': 'is gated already'}
    assert all(is_plain(layer.bn) for layer in model.modules() if isinstance(layer, IEBatchNorm2d))


@pytest.mark.parametrize('norm, kind', [
    (nn.BatchNorm2d(3), IEBatchNorm2d), (timm.layers.BatchNormAct2d(3), IEBatchNormAct2d)], ids=['bn', 'bn_act'])
def test_the_root_is_a_norm(norm, kind):
    layer, report = convert_bn_to_iebn(norm)
    assert type(layer) is kind and report.converted[0].label == '(root)'


def test_report():
    _, report = convert_bn_to_iebn(small_resnet(), filter=['bn1', 'layer3.*'])
    lines = str(report).splitlines()
    assert lines[0] == '3 of 13 norms converted'
    assert [re.split(r'  +', line)[:3] for line in lines[1:4]] == [
        ['layer', 'before', 'after'], ['bn1', 'BatchNorm2d', 'IEBatchNorm2d'],
        ['layer1.0.bn1', 'BatchNorm2d', 'left']]
    assert len(lines) == 2 + len(report.layers) and all(layer.note for layer in report.left)
    assert isinstance(report, conversion.ConversionReport)
