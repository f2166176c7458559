"""A converted network that timm saves is loaded as what it is, or not at all."""
import pytest
import timm
import torch

from iebn_zoo import convert_bn_to_iebn, convert_iebn_to_bn
from tests.models.cases import randomize

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
