"""A converted network that timm saves is loaded as what it is, or not at all."""
import json

import pytest
import timm
import torch
from torch import nn

from iebn_zoo import convert_bn_to_iebn, convert_iebn_to_bn, fold_gates
from iebn_zoo.conversion.naming import iebn_args
from tests.support.models.cases import randomize

SMALL = dict(layers=(1, 1, 1, 1), channels=(8, 16, 16, 16), num_classes=3)


def save(model, path):
    timm.models.save_for_hf(model, path, safe_serialization=True)
    return f'local-dir:{path}'


@pytest.mark.parametrize('gate_shortcuts', [False, True])
def test_saved_and_loaded(tmp_path, gate_shortcuts):
    x = torch.randn(2, 3, 32, 32)
    model = randomize(timm.create_model('resnet18', **SMALL)).eval()
    bn_logits = model(x)
    converted, _ = convert_bn_to_iebn(model, gate_shortcuts=gate_shortcuts)
    randomize(converted)
    expected = converted(x)
    loaded = timm.create_model(save(converted, tmp_path), pretrained=True).eval()
    assert loaded.pretrained_cfg['architecture'] == 'iebn_resnet18'
    torch.testing.assert_close(loaded(x), expected)
    assert not torch.allclose(expected, bn_logits, atol=1e-3)


def test_a_network_without_a_registered_model_is_not_loaded(tmp_path):
    converted, _ = convert_bn_to_iebn(timm.create_model('test_efficientnet', num_classes=3))
    with pytest.raises(RuntimeError, match='Unknown model .iebn_test_efficientnet'):
        timm.create_model(save(converted, tmp_path), pretrained=True)


def test_there_and_back_is_saved_under_its_own_name(tmp_path):
    x = torch.randn(2, 3, 32, 32)
    model = randomize(timm.create_model('resnet18', **SMALL)).eval()
    expected = model(x)
    back, _ = convert_iebn_to_bn(convert_bn_to_iebn(model, gate_shortcuts=True)[0])
    loaded = timm.create_model(save(back, tmp_path), pretrained=True).eval()
    assert loaded.pretrained_cfg['architecture'] == 'resnet18'
    torch.testing.assert_close(loaded(x), expected, rtol=1e-5, atol=1e-6)


class Detector(nn.Module):
    """Somebody's network around two backbones of timm's."""

    def __init__(self):
        super().__init__()
        self.backbone = randomize(timm.create_model('resnet18', **SMALL))
        self.other = timm.create_model('resnet34', **SMALL)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.backbone(self.norm(x)) + self.other(x)


@pytest.mark.parametrize('wrap', [
    nn.Sequential, lambda model: nn.ModuleDict({'norm': nn.BatchNorm2d(3), 'parts': nn.ModuleList([model])})],
    ids=['sequential', 'dict'])
def test_a_network_within_a_wrapper_is_named(tmp_path, wrap):
    """With other classes timm loads what it finds and says nothing: the name must be right."""
    x = torch.randn(2, 3, 32, 32)
    inner = randomize(timm.create_model('resnet18', **SMALL)).eval()
    convert_bn_to_iebn(wrap(inner))
    loaded = timm.create_model(save(inner, tmp_path), pretrained=True, num_classes=7).eval()
    torch.testing.assert_close(loaded.forward_features(x), inner.forward_features(x))


def test_each_part_of_a_network_is_named_for_its_own_norms():
    model = Detector().eval()
    model, _ = convert_bn_to_iebn(model, filter=['norm', 'other.*'], gate_shortcuts=True)
    assert 'gate_downsample' not in model.backbone._model_args and model.other._model_args['gate_downsample']
    names = [part.pretrained_cfg['architecture'] for part in (model.backbone, model.other)]
    assert names == ['resnet18', 'iebn_resnet34'] and not hasattr(model, 'pretrained_cfg')
    folded, _ = fold_gates(model, torch.randn(2, 3, 32, 32))
    assert folded.other.pretrained_cfg['architecture'] == folded.other.default_cfg['architecture'] == 'resnet34'
    assert model.other.pretrained_cfg['architecture'] == 'iebn_resnet34'
    assert 'gate_downsample' not in folded.other._model_args
    back, _ = convert_iebn_to_bn(model)
    assert back.other.pretrained_cfg['architecture'] == 'resnet34'


@pytest.mark.parametrize('notes, kept', [(None, []), ('one', ['one']), (('one', 'two'), ['one', 'two'])])
def test_a_saved_network_says_what_it_was_converted_from(tmp_path, notes, kept):
    model = timm.create_model('resnet18.a1_in1k', pretrained_cfg_overlay=dict(notes=notes), **SMALL)
    model, _ = convert_bn_to_iebn(model, filter='layer1.*')
    model, _ = convert_bn_to_iebn(model)  # says it once
    save(model, tmp_path)
    cfg = json.loads((tmp_path / 'config.json').read_text())['pretrained_cfg']
    assert cfg['notes'][0].startswith('converted from the BN network resnet18 ') and cfg['notes'][1:] == kept
    assert 'trained with' not in cfg['notes'][0]  # the BN network may be a folded IEBN network
    assert not {'hf_hub_id', 'tag', 'url'} & model.pretrained_cfg.keys() and cfg['license'] == 'apache-2.0'


def test_an_iebn_network_is_not_called_bn_trained():
    model, _ = convert_bn_to_iebn(timm.create_model('iebn_resnet34', **SMALL), gate_shortcuts=True)
    assert not model.pretrained_cfg.get('notes') or 'converted from' not in model.pretrained_cfg['notes'][0]


def test_a_folded_network_does_not_say_what_was_true_of_the_old_weights(tmp_path):
    model = timm.create_model('iebn_resnet18.bn_a1_in1k', **SMALL).eval()
    assert 'BN-trained' in model.pretrained_cfg['notes'][0] and model.pretrained_cfg['origin_url']
    folded, _ = fold_gates(model, torch.randn(2, 3, 32, 32))
    back, _ = convert_iebn_to_bn(convert_bn_to_iebn(timm.create_model('resnet18.a1_in1k', **SMALL))[0])
    for i, network in enumerate((folded, back)):
        save(network, tmp_path / str(i))
        cfg = json.loads((tmp_path / str(i) / 'config.json').read_text())['pretrained_cfg']
        assert not {'notes', 'origin_url', 'hf_hub_id', 'tag'} & cfg.keys() and cfg['license'] == 'apache-2.0'


def test_an_argument_of_new_networks_without_gates_is_not_handed_on():
    assert iebn_args({'norm_weight_init': 0.5, 'layers': [1, 1, 1]}, False) == {'layers': [1, 1, 1]}
    assert iebn_args({'layers': [1, 1, 1]}, True) == {'layers': [1, 1, 1], 'gate_downsample': True}
    model = timm.create_model('bn_resnet20_cifar', layers=(1, 1, 1), norm_weight_init=0.5)
    model._model_args = {'layers': (1, 1, 1), 'norm_weight_init': 0.5}  # as timm keeps what a config.json says
    converted, _ = convert_bn_to_iebn(model)
    again = timm.create_model(converted.pretrained_cfg['architecture'], **converted._model_args)
    again.load_state_dict(converted.state_dict())
