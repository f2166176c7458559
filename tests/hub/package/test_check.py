"""What is refused before anything is sent: every field that timm would misread in silence, and damaged files."""
import json
import os
import shutil
import socket
import stat

import pytest
import safetensors.torch
import torch

from iebn_zoo.hub.package.check import check_directory
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.hub.exported import edit_golden, make_export


def test_a_good_directory_passes(export_dir):
    (export_dir / '.DS_Store').write_bytes(b'junk')
    (export_dir / '.git').mkdir()
    (export_dir / '.git' / 'pytorch_model.bin').write_bytes(b'junk')
    (export_dir / 'figures').mkdir()
    (export_dir / 'figures' / 'a.svg').write_text('<svg/>')
    checked = check_directory(export_dir)
    made = ['README.md', 'config.json', 'curves.png', 'golden.safetensors', 'model.safetensors', 'summary.csv']
    assert [file.path for file in checked.files] == made and checked.left == ['figures/a.svg'] and not checked.edited
    more = check_directory(export_dir, include=['figures/*'])
    assert [file.path for file in more.files] == sorted([*made, 'figures/a.svg']) and not more.left
    assert checked.difference <= 1e-5 and checked.config['architecture'] == 'iebn_resnet20_cifar'


def refused(directory, *words, error=IEBNZooError, include=()):
    with pytest.raises(error) as caught:
        check_directory(directory, include)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3, message
    for word in words:
        assert word in message, (word, message)


@pytest.mark.parametrize(('field', 'value', 'words'), [
    ('architecture', 'resnet_of_nobody', ("'resnet_of_nobody'",)),
    ('architecture', None, ('missing',)),
    ('num_classes', 0, ('0',)),
    ('num_classes', True, ('True',)),
    ('num_classes', '4', ("'4'",)),
    ('num_classes', None, ('missing',)),
    ('pretrained_cfg', None, ('missing',)),
    ('pretrained_cfg.num_classes', 10, ('10', 'Expected 4')),
    ('model_args.num_classes', 10, ('10', 'Expected 4')),
    ('model_args.in_chans', 1, ('Expected 3',)),
    ('label_names', ['a', 'b', 'c'], ('3 names', 'Expected 4')),
    ('label_names', 'cat', ('a list of names',)),
    ('label_names', ['a', 'b', 'c', 7], ('7', 'only strings')),
    ('pretrained_cfg.label_names', ['a'], ('1 names',)),
    ('pretrained_cfg.input_size', None, ('missing', '[channels, height, width]')),
    ('pretrained_cfg.input_size', [32, 32], ('[32, 32]',)),
    ('pretrained_cfg.input_size', [3, 224, 224], ('golden input is [3, 32, 32]',)),
    ('pretrained_cfg.mean', None, ('missing', '3 numbers')),
    ('pretrained_cfg.mean', [0.5], ('[0.5]',)),
    ('pretrained_cfg.mean', [0.5, 0.5, 'a'], ('3 numbers',)),
    ('pretrained_cfg.std', None, ('missing',)),
    ('pretrained_cfg.std', [0.2, 0.0, 0.2], ('positive',)),
    ('pretrained_cfg.std', [0.2, float('nan'), 0.2], ('3 numbers',)),
    ('pretrained_cfg.interpolation', None, ('missing', 'bicubic')),
    ('pretrained_cfg.interpolation', 'cubic', ("'cubic'",)),
    ('pretrained_cfg.interpolation', 'random', ("'random'", 'one of nearest, bilinear')),
    ('pretrained_cfg.crop_pct', None, ('missing',)),
    ('pretrained_cfg.crop_pct', 0, ('0',)),
])
def test_wrong_config_field_is_named(export_dir, field, value, words):
    path = export_dir / 'config.json'
    config = json.loads(path.read_text())
    section, _, key = field.rpartition('.')
    target = config.setdefault(section, {}) if section else config
    target[key] = value
    if value is None:
        del target[key]
    path.write_text(json.dumps(config))
    refused(export_dir, f'config.json: {field} is', *words)


@pytest.mark.parametrize('name', ['model.safetensors', 'config.json', 'README.md', 'golden.safetensors'])
def test_missing_or_truncated_file_is_named(export_dir, name):
    whole = (export_dir / name).read_bytes()
    (export_dir / name).write_bytes(whole[:len(whole) // 2] if name != 'README.md' else b'---\nlicense: [mit\n---\n')
    refused(export_dir, name)
    (export_dir / name).unlink()
    refused(export_dir, f'has no {name}', 'Export the run again')


def test_not_a_directory(export_dir):
    refused(export_dir / 'nothing', 'nothing is not a directory', error=UsageError)


def test_weights_that_diverged_are_named(export_dir):
    path = export_dir / 'model.safetensors'
    weights = safetensors.torch.load_file(path)
    weights['fc.weight'][1, 2] = torch.nan
    safetensors.torch.save_file(weights, path)
    refused(export_dir, 'model.safetensors: tensor fc.weight', 'not finite')


def test_weights_of_another_model(export_dir, tmp_path):
    other = make_export(tmp_path / 'other', seed=1)
    shutil.copy(other / 'model.safetensors', export_dir)
    refused(export_dir, 'model.safetensors is not the file that was exported')
    edit_golden(export_dir)
    refused(export_dir, 'does not compute the logits in golden.safetensors')
    weights = safetensors.torch.load_file(export_dir / 'model.safetensors')
    del weights['fc.weight']
    safetensors.torch.save_file(weights, export_dir / 'model.safetensors')
    edit_golden(export_dir)
    refused(export_dir, 'does not load and run through timm', 'RuntimeError')


def test_gates_that_were_lost_do_not_pass(export_dir):
    """Every gate back at its initial value is a small change of the function; the check must see it."""
    path = export_dir / 'model.safetensors'
    weights = safetensors.torch.load_file(path)
    gates = [name for name in weights if name.endswith('gate_weight')]
    assert len(gates) == 19
    for name in gates[-1:]:
        weights[name].zero_()
    safetensors.torch.save_file(weights, path)
    edit_golden(export_dir)
    refused(export_dir, 'does not compute the logits')


@pytest.mark.parametrize(('tensors', 'words'), [
    ({'input': (2, 3, 32, 32)}, ("no tensor 'logits'",)),
    ({'input': (3, 32, 32), 'logits': (2, 4)}, ('(3, 32, 32)',)),
    ({'input': (2, 3, 32, 32), 'logits': (1, 4)}, ('(1, 4)',)),
    ({'input': (2, 3, 32, 32), 'logits': (2, 5)}, ('num_classes is 4', 'logits have 5')),
])
def test_golden_of_the_wrong_shape(export_dir, tensors, words):
    path = export_dir / 'golden.safetensors'
    safetensors.torch.save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path)
    refused(export_dir, *words)


def test_golden_that_is_not_finite(export_dir):
    edit_golden(export_dir, lambda tensors, metadata: tensors['logits'].fill_(torch.inf))
    refused(export_dir, 'golden.safetensors holds values that are not finite')


@pytest.mark.parametrize(('text', 'words'), [
    ('# no metadata\n', ('library_name is None',)),
    ('---\nlibrary_name: transformers\n---\n', ("library_name is 'transformers'",)),
    ('---\nlibrary_name: timm\n---\n', ('no model-index',)),
    ('---\n- a list\n---\n', ('does not parse',)),
])
def test_card_without_what_the_hub_shows(export_dir, text, words):
    (export_dir / 'README.md').write_text(text)
    refused(export_dir, 'README.md', *words)


@pytest.mark.parametrize('name', [
    'pytorch_model.bin', 'last.pth.tar', 'ema/model.safetensors', 'other.ONNX', 'a.ort', 'a.tflite', 'a/saved_model.pb',
    'model.onnx', 'openvino_model.xml', 'openvino_model.bin', 'model.torchscript.pt', 'fp16/Openvino_Model.xml',
    'w.pickle', 'net.pt2', 'w.npz', 'm.joblib', 'm.gguf', 'm.keras', 'net.xml', 'ckpt.zip', 'w.pth.gz', 'modeling_x.py',
    'model.safetensors.index.json', 'weights'])
def test_second_weights_stay_here(export_dir, name):
    (export_dir / name).parent.mkdir(exist_ok=True)
    (export_dir / name).write_bytes(b'weights')
    assert check_directory(export_dir).left == [name]
    for pattern in (name, '*'):
        refused(export_dir, f'holds {name}', 'Leave', include=[pattern])


@pytest.mark.parametrize('pattern', ['*.txt', 'README.md', '.hidden', '../outside.txt', '/etc/hostname'])
def test_a_pattern_takes_what_is_in_the_directory_and_nothing_else(export_dir, pattern):
    (export_dir / '.hidden').write_text('secret')
    (export_dir.parent / 'outside.txt').write_text('secret')
    refused(export_dir, '--include', repr(pattern), 'There are none', error=UsageError, include=[pattern])


def _link(path):
    target = path.parent.parent / 'secret.txt'
    target.write_text('secret')
    path.symlink_to(target)


def _link_to_folder(path):
    path.symlink_to(path.parent.parent)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))


@pytest.mark.parametrize(('make', 'kind'), [
    (_link, 'a symbolic link'), (_link_to_folder, 'a symbolic link'), (os.mkfifo, 'a FIFO'), (_socket, 'a socket'),
    (lambda path: path.symlink_to('/dev/zero'), 'a symbolic link'),
    (lambda path: path.symlink_to('nothing there'), 'a symbolic link'),
])
@pytest.mark.parametrize('name', ['curves.png', 'model.safetensors', 'golden.safetensors', 'notes.txt', 'a/b.svg'])
def test_what_is_no_plain_file_is_refused(export_dir, make, kind, name, monkeypatch):
    path = export_dir / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    monkeypatch.chdir(export_dir)
    make(path)
    for include in ([], ['*']):
        refused(export_dir, f'{name} is {kind}', 'Put a copy', include=include)


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='only root may make a device')
def test_a_device_is_refused(export_dir):
    try:
        os.mknod(export_dir / 'notes.txt', stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip('no right to make a device here')
    refused(export_dir, 'notes.txt is a device')


def test_a_link_to_the_directory_itself_is_a_name_for_it(export_dir, tmp_path):
    (tmp_path / 'link').symlink_to(export_dir)
    assert check_directory(tmp_path / 'link').difference <= 1e-5


def test_a_file_of_another_export_counts_as_added(export_dir):
    (export_dir / 'gates.png').write_bytes(b'of a fold')
    assert check_directory(export_dir).left == ['gates.png']
