"""Every way of create_model to a BN checkpoint but the Hub: files, state dicts, directories, new heads, features."""
import dataclasses
import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg, save_for_hf
from torch import nn

from tests.support.models.bn_networks import SMALL, TOLERANCE, bn_network, images, relative_error

NETS = ('resnet18', 'resnet50d')  # a stem of one convolution, and of three


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """BN checkpoints in the forms that timm reads."""
    folder = tmp_path_factory.mktemp('bn')
    for net in NETS:
        state_dict = bn_network(net, **SMALL).state_dict()
        save_file(state_dict, folder / f'{net}.safetensors')
        torch.save(state_dict, folder / f'{net}.pth')
        training = {f'module.{key}': value for key, value in state_dict.items()}
        other = {key: torch.zeros_like(value) for key, value in training.items()}
        torch.save(dict(arch=net, epoch=3, state_dict=other, state_dict_ema=training), folder / f'{net}.pth.tar')
    return folder


def pair(checkpoints, net, suffix='.safetensors', tag='', **kwargs):
    """timm's BN network and ours, made in the same way from the same file."""
    overlay = dict(file=str(checkpoints / f'{net}{suffix}'))
    return [timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **SMALL, **kwargs).eval()
            for name in (net, f'iebn_{net}{tag}')]


@torch.no_grad()
def assert_same(bn, iebn, chans=3, features=False):
    x = images(chans=chans)
    outputs = [[m.forward_features(x)] if features else m(x) for m in (iebn, bn)]
    for ours, theirs in zip(*(o if isinstance(o, list) else [o] for o in outputs), strict=True):
        assert relative_error(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth', '.pth.tar'])
@pytest.mark.parametrize('net', NETS)
def test_file(checkpoints, net, suffix):
    bn, iebn = pair(checkpoints, net, suffix)
    assert_same(bn, iebn)
    assert iebn.fc.weight.equal(bn_network(net, **SMALL).fc.weight)


@pytest.mark.parametrize('arguments', [
    dict(num_classes=7), dict(num_classes=0), dict(num_classes=0, global_pool=''), dict(in_chans=1), dict(in_chans=2),
    dict(in_chans=5, num_classes=7), dict(output_stride=8), dict(drop_path_rate=0.1), dict(drop_block_rate=0.1),
    dict(dtype=torch.float64)], ids=str)
@pytest.mark.parametrize('net', NETS)
def test_arguments(checkpoints, net, arguments):
    bn, iebn = pair(checkpoints, net, **arguments)
    if 'dtype' in arguments:
        bn, iebn = bn.float(), iebn.float()
    chans = arguments.get('in_chans', 3)
    assert (iebn.num_classes, iebn.in_chans) == (arguments.get('num_classes', 1000), chans)
    assert_same(bn, iebn, chans, features=True)
    if arguments.get('num_classes') is None:
        assert_same(bn, iebn, chans)


@pytest.mark.parametrize('net', NETS)
@pytest.mark.parametrize('gate', ['gate_downsample', 'fuse_act'])
def test_own_arguments(checkpoints, net, gate):
    overlay = dict(file=str(checkpoints / f'{net}.pth'))
    iebn = timm.create_model(f'iebn_{net}', pretrained=True, pretrained_cfg_overlay=overlay, **SMALL,
                             **{gate: gate == 'gate_downsample'}).eval()
    assert_same(bn_network(net, **SMALL), iebn)


@pytest.mark.parametrize('arguments', [{}, dict(out_indices=(1, 3)), dict(in_chans=1), dict(feature_cls='getter'),
                                       dict(feature_cls='hook'), dict(feature_cls='fx')], ids=str)
@pytest.mark.parametrize('net', NETS)
def test_features_only(checkpoints, net, arguments):
    bn, iebn = pair(checkpoints, net, features_only=True, **arguments)
    assert iebn.feature_info.channels() == bn.feature_info.channels()
    assert_same(bn, iebn, arguments.get('in_chans', 3))


def test_cfg_as_argument(checkpoints):
    file = str(checkpoints / 'resnet18.pth')
    bn = bn_network('resnet18', **SMALL)
    cfg = dataclasses.replace(get_pretrained_cfg('iebn_resnet18.bn_a3_in1k'), file=file)
    for name, pretrained_cfg, overlay in (
            ('iebn_resnet18', cfg.to_dict(), None), ('iebn_resnet18', 'bn_a3_in1k', dict(file=file)),
            ('iebn_resnet18.bn_a3_in1k', None, dict(file=file))):
        iebn = timm.create_model(name, pretrained=True, pretrained_cfg=pretrained_cfg, pretrained_cfg_overlay=overlay,
                                 **SMALL).eval()
        assert (iebn.default_cfg['tag'], iebn.default_cfg['input_size']) == ('bn_a3_in1k', (3, 160, 160))
        assert_same(bn, iebn)


def test_state_dict():
    bn = bn_network('resnet18', **SMALL)
    state_dict = dict(bn.state_dict())
    before = {key: value.clone() for key, value in state_dict.items()}
    iebn = timm.create_model('iebn_resnet18', pretrained=True, pretrained_cfg_overlay=dict(state_dict=state_dict),
                             num_classes=7, in_chans=1, **SMALL)
    assert iebn.fc.out_features == 7
    assert list(state_dict) == list(before) and all(torch.equal(state_dict[k], before[k]) for k in before)


@pytest.mark.skipif(not timm.is_model_pretrained('resnet50.bamboo'), reason='this timm is older than the checkpoint')
@pytest.mark.parametrize('num_classes', [None, 4])
def test_checkpoint_without_classifier(tmp_path, num_classes):
    bn = bn_network('resnet50', num_classes=0, **SMALL)
    save_file(bn.state_dict(), tmp_path / 'model.safetensors')
    iebn = timm.create_model('iebn_resnet50.bn_bamboo', pretrained=True, num_classes=num_classes, **SMALL,
                             pretrained_cfg_overlay=dict(file=str(tmp_path / 'model.safetensors'))).eval()
    assert iebn.num_classes == (num_classes or 0) and isinstance(iebn.fc, nn.Linear if num_classes else nn.Identity)
    assert_same(bn, iebn, features=True)
    with torch.no_grad():
        assert iebn(images()).shape == (2, num_classes or iebn.num_features)


def test_converted_model_in_a_directory(checkpoints, tmp_path):
    bn, iebn = pair(checkpoints, 'resnet18', tag='.bn_a1_in1k')
    with torch.no_grad():  # as after fine-tuning
        iebn.layer1[0].bn1.gate_weight.fill_(0.3)
    save_for_hf(iebn, str(tmp_path), model_args=SMALL, safe_serialization=True)
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['architecture'] == 'iebn_resnet18' and config['num_classes'] == 1000
    assert not {'hf_hub_id', 'file', 'url', 'source'} & set(config['pretrained_cfg'])
    assert 'BN-trained' in config['pretrained_cfg']['notes'][0]
    again = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert again.default_cfg['architecture'] == 'iebn_resnet18' and again.default_cfg['tag'] == 'bn_a1_in1k'
    with torch.no_grad():
        assert again(images()).equal(iebn(images())) and not again(images()).equal(bn(images()))


def test_bn_weights_in_a_directory_of_an_iebn_model(tmp_path):
    save_for_hf(timm.create_model('iebn_resnet18', **SMALL), str(tmp_path), model_args=SMALL, safe_serialization=True)
    bn = bn_network('resnet18', **SMALL)
    save_file(bn.state_dict(), tmp_path / 'model.safetensors')
    assert_same(bn, timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval())


def test_default_cfg_without_pretrained():
    model = timm.create_model('iebn_resnet34', device='meta')
    theirs, ours = timm.create_model('resnet34', device='meta').default_cfg, model.default_cfg
    assert ours['architecture'] == 'iebn_resnet34' and ours['tag'] == f'bn_{theirs["tag"]}' == 'bn_a1_in1k'
    own = ('architecture', 'tag', 'notes', 'paper_ids')
    assert {k: v for k, v in ours.items() if k not in own} == {k: v for k, v in theirs.items() if k not in own}


@pytest.mark.parametrize('load', ['checkpoint_path', 'load_state_dict', 'not strict', 'wrapped'])
def test_no_conversion_without_the_filter(checkpoints, load):
    # timm's checkpoint_path calls no filter: the error says what does
    path = checkpoints / 'resnet18.pth'
    state_dict = torch.load(path)
    model = timm.create_model('iebn_resnet18', **SMALL)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match='BN network into iebn_resnet18.*bn1.running_mean') as e:
        if load == 'checkpoint_path':
            timm.create_model('iebn_resnet18', checkpoint_path=str(path), **SMALL)
        elif load == 'wrapped':
            nn.ModuleDict({'module': model}).load_state_dict({f'module.{k}': v for k, v in state_dict.items()})
        else:
            model.load_state_dict(state_dict, strict=load != 'not strict')
    assert 'pretrained_cfg_overlay=dict(file=PATH)' in str(e.value) and len(str(e.value).splitlines()) == 3
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_iebn_weights_load_without_the_filter(checkpoints, tmp_path):
    _, iebn = pair(checkpoints, 'resnet18')
    torch.save(iebn.state_dict(), tmp_path / 'iebn.pth')
    again = timm.create_model('iebn_resnet18', checkpoint_path=str(tmp_path / 'iebn.pth'), **SMALL).eval()
    with torch.no_grad():
        assert again(images()).equal(iebn(images()))
    part = {key: value for key, value in iebn.state_dict().items() if key.startswith('layer1.')}
    missing, unexpected = again.load_state_dict(part, strict=False)
    assert 'bn1.bn.running_mean' in missing and unexpected == []
