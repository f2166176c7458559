"""Directories and repositories: config.json is checked before anything is built, the weights are read as any others."""
import json
import os
import shutil

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.weights.config import read_config
from iebn_zoo.weights.open import open_network, start_network
from tests.support.hub.exported import make_export
from tests.support.weights.files import export_with, iebn_network, refused, run, same_logits, with_config


@pytest.fixture(scope='module')
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp('export') / 'model')


def by_directory(folder):
    return open_network(f'local-dir:{folder}')


def by_file(folder):
    return open_network(checkpoint=folder / 'model.safetensors')


def by_start(folder):
    return start_network(f'local-dir:{folder}', True, {})


def by_start_with_other_classes(folder):
    return start_network(f'local-dir:{folder}', True, {'num_classes': 9})


OPENERS = [by_directory, by_file, by_start, by_start_with_other_classes]
openers = pytest.mark.parametrize('opened', OPENERS)


def message_of(opened, folder):
    with pytest.raises(IEBNZooError) as e:
        opened(folder)
    assert len(str(e.value).splitlines()) <= 3 and len(str(e.value)) < 900, e.value
    return str(e.value)


def test_a_file_of_an_export_is_what_its_config_says(export, tmp_path):
    timms = timm.create_model(f'local-dir:{export}', pretrained=True).eval()
    by_name, by_path = by_directory(export), by_file(export)
    assert same_logits(by_name.model, timms) and same_logits(by_path.model, timms)
    assert by_path.data_config == by_name.data_config and by_path.data_config['mean'] != [0.485, 0.456, 0.406]
    assert by_path.label_names == by_name.label_names == [f'class {i}' for i in range(4)]
    assert by_path.arch == by_name.arch == 'iebn_resnet20_cifar' and by_path.model_args['num_classes'] == 4
    shutil.copytree(export, tmp_path / 'other')
    config = json.loads((tmp_path / 'other' / 'config.json').read_text())
    config['pretrained_cfg'].update(mean=[0.1, 0.2, 0.3], crop_pct=0.5)
    (tmp_path / 'other' / 'config.json').write_text(json.dumps(config))
    data = by_file(tmp_path / 'other').data_config
    assert data['mean'] == [0.1, 0.2, 0.3] and data['crop_pct'] == 0.5
    assert open_network(checkpoint=tmp_path / 'other' / 'model.safetensors', flags={'crop_pct': 0.9}).data_config[
        'crop_pct'] == 0.9


def test_the_arguments_of_a_config_are_kept(tmp_path):
    arguments = dict(block_args={}, fuse_act=False, drop_rate=0.2)
    folder = export_with(tmp_path / 'x', lambda config: config.setdefault('model_args', {}).update(arguments))
    for opened in (by_directory, by_file):
        kept = opened(folder).model_args
        assert {**arguments, 'num_classes': 3}.items() <= kept.items(), kept


def test_validate_takes_the_weights_of_an_export(export, image_folder, tmp_path, capsys):
    folder = shutil.copytree(export, tmp_path / 'model')
    (image_folder.parent / 'named').mkdir(exist_ok=True)
    config = json.loads((folder / 'config.json').read_text())
    config['label_names'] = ['ant', 'bee', 'cat', 'dog']
    (folder / 'config.json').write_text(json.dumps(config))
    results = []
    for argv in (['--checkpoint', folder / 'model.safetensors'], ['--model', f'local-dir:{folder}']):
        code, out, err = run(capsys, 'validate', *argv, '--data-dir', image_folder, '--device', 'cpu', '-j', 0)
        assert code == 0, err
        results.append({k: v for k, v in json.loads(out).items() if k not in ('checkpoint', 'model', 'seconds')})
        assert err.startswith('loaded iebn_resnet20_cifar from ')
    assert results[0] == results[1] and results[0]['num_classes'] == 4


def test_another_architecture_than_the_config_is_refused(export):
    with pytest.raises(UsageError, match='is of iebn_resnet20_cifar, not bn_resnet20_cifar'):
        open_network('bn_resnet20_cifar', export / 'model.safetensors')


def test_a_config_of_another_library_is_left_alone_where_the_user_says_the_model(export, tmp_path):
    folder = with_config(export, tmp_path / 'x', '{"architectures": ["ResNetForImageClassification"]}')
    assert open_network('iebn_resnet20_cifar', folder / 'model.safetensors').model.num_classes == 4
    assert 'architecture is missing' in message_of(by_file, folder)


@openers
@pytest.mark.parametrize('change, named', [
    (lambda c: c['pretrained_cfg'].pop('mean'), 'pretrained_cfg.mean is missing'),
    (lambda c: c['pretrained_cfg'].pop('std'), 'pretrained_cfg.std is missing'),
    (lambda c: c['pretrained_cfg'].update(num_classes=7), 'pretrained_cfg.num_classes is 7'),
    (lambda c: c.update(num_classes=7), '7'),
    (lambda c: c.setdefault('model_args', {}).update(num_classes=7), 'model_args.num_classes is 7'),
    (lambda c: c.update(architecture='iebn_resnet9000'), 'architecture is'),
    (lambda c: c.update(label_names=['a'] * 2), '2 names'),
    (lambda c: c.update(pretrained_cfg=[]), 'pretrained_cfg is []'),
    (lambda c: c.update(model_args=5), 'model_args is 5'),
    (lambda c: c['pretrained_cfg'].update(input_size=[3, 10**9, 10**9]), 'input_size'),
    (lambda c: c['pretrained_cfg'].update(mean=[[0.1], {}, 'x']), 'pretrained_cfg.mean is'),
    (lambda c: c['pretrained_cfg'].update(mean=[10**19] * 3), 'pretrained_cfg.mean is'),
    (lambda c: c['pretrained_cfg'].update(interpolation=['bilinear']), 'interpolation is'),
    (lambda c: c['pretrained_cfg'].update(first_conv=5), 'first_conv'),
    (lambda c: c['pretrained_cfg'].update(classifier={'a': 1}), 'classifier'),
    (lambda c: c['pretrained_cfg'].update(fixed_input_size='yes'), 'fixed_input_size'),
    (lambda c: c['pretrained_cfg'].update(label_offset=1), 'fc.bias'),
    (lambda c: c['pretrained_cfg'].update(nonsense=1), 'nonsense'),
    (lambda c: c['pretrained_cfg'].update(architecture='bn_resnet20_cifar'),
     "pretrained_cfg.architecture is 'bn_resnet20_cifar'"),
    (lambda c: c['pretrained_cfg'].update(architecture='iebn_resnet20_cifar.other'), 'Expected iebn_resnet20_cifar'),
    (lambda c: c['pretrained_cfg'].update(architecture=5), 'pretrained_cfg.architecture is 5'),
    (lambda c: c['pretrained_cfg'].update(label_names=['a', 'b', 'c', 'd']), 'label_names'),
    (lambda c: c.setdefault('model_args', {}).update(layers=[1, 1, 1]), 'layer1.1'),
    (lambda c: c.setdefault('model_args', {}).update(layers=[]), 'layers is []'),
    (lambda c: c.setdefault('model_args', {}).update(layers=['a', {}, None]), ''),
    (lambda c: c.setdefault('model_args', {}).update(channels=[10**7] * 3), ''),
    (lambda c: c.setdefault('model_args', {}).update(channels=[0, 0, 0]), ''),
    (lambda c: c.setdefault('model_args', {}).update(num_classes=-1), 'num_classes is -1'),
    (lambda c: c.setdefault('model_args', {}).update(act_layer='nothing'), ''),
    (lambda c: c.setdefault('model_args', {}).update(norm_layer='batchnorm2d'), 'norm_layer'),
    (lambda c: c.setdefault('model_args', {}).update(global_pool=[1, 2]), ''),
    (lambda c: c.setdefault('model_args', {}).update(block_args={'a': 1}), ''),
    (lambda c: c.setdefault('model_args', {}).update(in_chans=1), 'in_chans is 1'),
    (lambda c: c.setdefault('model_args', {}).update(output_stride=3), 'output_stride'),
    (lambda c: c.setdefault('model_args', {}).update(start='nothing'), ''),
], ids=lambda v: v if isinstance(v, str) else '')
def test_a_config_that_is_wrong_is_a_message(opened, change, named, tmp_path):
    folder = export_with(tmp_path / 'x', change)
    assert named in message_of(opened, folder)


@pytest.mark.parametrize('top, own', [
    ('iebn_resnet20_cifar', 'iebn_resnet20_cifar'), ('iebn_resnet20_cifar.cifar100', 'iebn_resnet20_cifar.cifar100'),
    ('iebn_resnet20_cifar.cifar100', 'iebn_resnet20_cifar'), ('iebn_resnet20_cifar', None)])
def test_an_architecture_that_stands_twice_is_recorded_once(top, own, tmp_path):
    def change(config):
        config['architecture'] = top
        config['pretrained_cfg'].update(architecture=own, tag='cifar100')  # timm's own repositories have tags

    folder = export_with(tmp_path / 'x', change)
    for opened in OPENERS:
        assert opened(folder).model.pretrained_cfg['architecture'] == 'iebn_resnet20_cifar'


@pytest.mark.parametrize('value', [{'a': 1}, ['mit'], 5, True, '', 'MIT *License* [x](http://x)', 'mit\n\n# x',
                                   'unknown'], ids=str)
def test_a_license_that_is_no_id_is_not_known(value, tmp_path):
    folder = export_with(tmp_path / 'x', lambda c: c['pretrained_cfg'].update(license=value))
    assert by_directory(folder).license is by_file(folder).license is None
    known = export_with(tmp_path / 'y', lambda c: c['pretrained_cfg'].update(license='mit'))
    assert by_directory(known).license == 'mit'


def nested(depth):
    return '{"a":' * depth + '1' + '}' * depth


@openers
@pytest.mark.parametrize('text', [
    '', '{', '[]', 'null', '5', '"x"', '{}', nested(20), nested(100_000), '[' * 100_000,
    '{"num_classes": ' + '9' * 5000 + '}',
    '{"num_classes": 1e999}', '{"architecture": "resnet18", "architecture": "resnet50"}', '{"architecture": "\\ud800"}',
    '{"\\ud800": 1}', '\ufeff{}', '\x00', '{"architecture": "resnet18", "pretrained_cfg": {"num_classes": NaN}}',
    '{"architecture": ' + '"x' * 100 + '}', '\udcff'], ids=lambda v: repr(v)[:30])
def test_json_of_every_kind_is_a_message(opened, text, export, tmp_path):
    message_of(opened, with_config(export, tmp_path / 'x', text))


def test_a_huge_config_is_not_read(export, tmp_path):
    folder = with_config(export, tmp_path / 'x', '')
    with open(folder / 'config.json', 'wb') as file:
        file.truncate(1 << 32)
    for opened in OPENERS:
        assert '4,294,967,296 bytes' in message_of(opened, folder)


def test_a_config_that_is_no_file(export, tmp_path):
    folder = shutil.copytree(export, tmp_path / 'x')
    (folder / 'config.json').unlink()
    os.mkfifo(folder / 'config.json')  # reading it would wait for ever
    for opened in (by_directory, by_start):
        assert 'no config.json' in message_of(opened, folder)
    with pytest.raises(IEBNZooError, match='cannot be read'):
        read_config(folder)


def weights_with(export, folder, change):
    shutil.copytree(export, folder)
    state = load_file(folder / 'model.safetensors')
    change(state)
    save_file({k: v.contiguous() for k, v in state.items()}, folder / 'model.safetensors', {'format': 'pt'})
    return folder


@openers
@pytest.mark.parametrize('change, named', [
    (lambda s: s['fc.bias'].fill_(float('nan')), 'fc.bias has NaN'),
    (lambda s: s['conv1.weight'].fill_(float('inf')), 'conv1.weight has NaN'),
    (lambda s: s['layer1.0.bn1.bn.running_var'].neg_(), 'running_var has negative'),
    (lambda s: s.update({'conv1.weight': s['conv1.weight'].to(torch.int32)}), 'conv1.weight is a int32 tensor'),
    (lambda s: s.pop('layer1.0.conv1.weight'), 'layer1.0.conv1.weight'),
    (lambda s: s.update({'one.more': torch.ones(2)}), 'one.more'),
    (lambda s: s.update({'layer1.0.conv1.weight': torch.ones(16, 16, 1, 1)}), 'layer1.0.conv1.weight'),
    (lambda s: [s.pop(k) for k in list(s) if 'gate' in k], ''),
    (lambda s: [s.pop(k) for k in ('layer2.0.bn1.gate_weight', 'layer2.0.bn1.gate_bias')], 'layer2.0.bn1'),
], ids=lambda v: v if isinstance(v, str) else '')
def test_weights_that_do_not_belong_are_refused(opened, change, named, export, tmp_path):
    # with another number of classes timm itself is not strict, and would leave tensors out without a word
    assert named in message_of(opened, weights_with(export, tmp_path / 'x', change))


@openers
def test_damaged_weights_are_a_message(opened, export, tmp_path):
    folder = shutil.copytree(export, tmp_path / 'x')
    whole = (folder / 'model.safetensors').read_bytes()
    for broken in (b'', whole[:50], whole[:-1], b'x' * 100):
        (folder / 'model.safetensors').write_bytes(broken)
        assert 'damaged' in message_of(opened, folder)


def test_which_file_of_weights_a_directory_means(export, tmp_path):
    folder = shutil.copytree(export, tmp_path / 'x')
    torch.save(iebn_network(num_classes=4, layers=[3, 3, 3]).state_dict(), folder / 'pytorch_model.bin')
    assert same_logits(by_directory(folder).model, by_directory(export).model)  # safetensors first
    (folder / 'model.safetensors').unlink()
    assert not same_logits(by_directory(folder).model, by_directory(export).model)
    (folder / 'pytorch_model.bin').unlink()
    assert 'holds no weights' in message_of(by_directory, folder)  # golden.safetensors is none
    for name in ('a.safetensors', 'b.safetensors'):
        shutil.copy(export / 'model.safetensors', folder / name)
    assert 'holds a.safetensors and b.safetensors' in message_of(by_directory, folder)
    (folder / 'b.safetensors').unlink()
    assert same_logits(by_directory(folder).model, by_directory(export).model)


def test_a_directory_that_is_none(capsys, image_folder):
    for name in ('local-dir:', 'local-dir:nowhere', 'hf-hub:', 'nothing:x', 'a/b', 'C:\\x'):
        refused(run(capsys, 'validate', '--model', name, '--data-dir', image_folder), name.partition(':')[2])
