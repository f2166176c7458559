"""Every start says in one line what it starts from; every opening what it opened."""
import json
import math

import pytest
import torch

from iebn_zoo.commands.train import main as train
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.weights.open import open_network, start_network
from tests.support.hub.exported import make_export
from tests.support.training.datasets import flags, write_folder
from tests.support.weights.files import (
    ARCH,
    ARGS,
    as_ours,
    as_safetensors,
    as_state_dict,
    as_timms,
    bn_network,
    checkpoint,
    iebn_network,
    refused,
    run,
)


def start(path, **changes):
    return start_network(ARCH, False, {**ARGS, **changes}, path)[1]


def test_every_start(tmp_path):
    assert start_network(ARCH, False, ARGS)[1] == 'started from random weights'
    assert start(as_ours(checkpoint(), tmp_path)) == 'started from last.pth.tar (checkpoint, epoch 2; IEBN)'
    assert start(as_ours(checkpoint(), tmp_path), num_classes=8) == (
        'started from last.pth.tar (checkpoint, epoch 2; IEBN; new classifier: 3 -> 8 classes)')
    assert start(as_timms(checkpoint(), tmp_path)) == "started from model_best.pth.tar (timm's checkpoint; IEBN)"
    bn = checkpoint(state_dict=bn_network().state_dict())
    assert start(as_state_dict(bn, tmp_path), num_classes=2) == (
        'started from weights.pth (state dict; BN, converted; new classifier: 3 -> 2 classes)')
    assert start(as_safetensors(bn, tmp_path)) == 'started from weights.safetensors (safetensors; BN, converted)'
    exported = make_export(tmp_path / 'export')
    assert start_network(f'local-dir:{exported}', True, {'num_classes': 6})[1] == (
        'started from local-dir:export (IEBN; new classifier: 4 -> 6 classes)')
    assert start_network(f'local-dir:{exported}', False, {'num_classes': 6})[1] == 'started from random weights'


def test_a_start_knows_the_names_of_its_classes(tmp_path):
    named = as_ours(checkpoint(label_names=['a', 'b', 'c']), tmp_path)
    assert start_network(ARCH, False, {**ARGS, 'num_classes': 8}, named).label_names == ['a', 'b', 'c']
    assert start_network(ARCH, False, ARGS).label_names is None
    for name in (f'local-dir:{make_export(tmp_path / "export")}', 'iebn_resnet20_cifar.fashion_mnist'):
        names = open_network(name).label_names
        assert names and start_network(name, True, {}).label_names == names


def test_every_opening(tmp_path):
    ours = as_ours(checkpoint(state_dict_ema=iebn_network(1).state_dict()), tmp_path)
    said = 'loaded iebn_resnet20_cifar from'
    assert open_network(checkpoint=ours).description == f'{said} last.pth.tar (checkpoint, epoch 2; IEBN; 3 classes)'
    assert open_network(checkpoint=ours, use_ema=True).description == (
        f'{said} last.pth.tar (checkpoint, epoch 2; EMA weights; IEBN; 3 classes)')
    path = as_state_dict(checkpoint(state_dict=bn_network().state_dict()), tmp_path)
    assert open_network(ARCH, path, model_args={'layers': [1, 1, 1]}).description == (
        f'{said} weights.pth (state dict; BN, converted; 3 classes)')
    exported = make_export(tmp_path / 'export')
    assert open_network(f'local-dir:{exported}').description == f'{said} local-dir:export (IEBN; 4 classes)'
    assert open_network(checkpoint=exported / 'model.safetensors').description == (
        f'{said} model.safetensors (IEBN; 4 classes)')


def test_train_prints_it_once(image_folder, tmp_path, capsys):
    path = as_ours(checkpoint(), tmp_path / 'first')
    other = write_folder(tmp_path / 'other', train=8, test=2, classes=('x', 'y'))
    train(flags(other, tmp_path / 'run', '--epochs', '1', '--model-kwargs', 'layers=[1,1,1]', '--initial-checkpoint',
                str(path)))
    out = capsys.readouterr().out
    assert out.count('started from') == 1 and str(tmp_path) not in out.split('started from')[1].splitlines()[0]
    assert 'started from last.pth.tar (checkpoint, epoch 2; IEBN; new classifier: 3 -> 2 classes)' in out
    train(flags(other, tmp_path / 'run', '--epochs', '1', '--model-kwargs', 'layers=[1,1,1]', '--initial-checkpoint',
                str(path), '--resume'))
    out = capsys.readouterr().out
    assert 'started from' not in out and 'resuming ' in out


def test_flags_may_not_contradict_the_weights(tmp_path, image_folder, capsys):
    path, exported = as_ours(checkpoint(), tmp_path), make_export(tmp_path / 'export')
    for argv, named in ((['--checkpoint', path, '--num-classes', 5], '--num-classes is 5, but last.pth.tar has 3'),
                        (['--checkpoint', path, '--in-chans', 1], '--in-chans is 1, but last.pth.tar has 3'),
                        (['--model', f'local-dir:{exported}', '--num-classes', 5],
                         '--num-classes is 5, but local-dir:export has 4')):
        refused(run(capsys, 'validate', *argv, '--data-dir', image_folder), named)


def test_validate_writes_no_nan(tmp_path, image_folder, capsys, monkeypatch):
    model = iebn_network()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state['fc.weight'].fill_(3e38)  # finite weights whose outputs are not
    path = as_ours(checkpoint(state_dict=state), tmp_path)
    results = tmp_path / 'results.json'
    answer = run(capsys, 'validate', '--checkpoint', path, '--data-dir', image_folder, '--device', 'cpu', '-j', 0,
                 '--results-file', results)
    refused(answer, 'outputs are not finite')
    assert not results.exists() and 'NaN' not in answer[1]
    code, out, _ = run(capsys, 'validate', '--checkpoint', as_ours(checkpoint(), tmp_path), '--data-dir', image_folder,
                       '--device', 'cpu', '-j', 0, '--results-file', results)
    assert code == 0 and json.loads(out) == json.loads(results.read_text())
    assert math.isfinite(json.loads(out, parse_constant=pytest.fail)['loss'])


@pytest.mark.parametrize('shapes', [
    {'fc.bias': (0,)}, {'fc.bias': (4,)}, {'fc.weight': (4, 64)}, {'fc.weight': (3, 65)}, {'fc.weight': (0, 64)},
    {'fc.weight': (0, 64), 'fc.bias': (0,)}, {'fc.weight': (3,)}], ids=str)
@pytest.mark.parametrize('num_classes', [3, 5])
def test_half_of_a_classifier_is_no_classifier_for_other_classes(tmp_path, shapes, num_classes):
    state = dict(iebn_network().state_dict(), **{name: torch.zeros(shape) for name, shape in shapes.items()})
    path = as_safetensors(checkpoint(state_dict=state), tmp_path)
    if num_classes == 5 and shapes == {'fc.weight': (3, 65)}:  # of three classes: another classifier altogether
        assert 'new classifier: 3 -> 5 classes' in start(path, num_classes=5)
        return
    with pytest.raises(IEBNZooError, match='fc'):
        start(path, num_classes=num_classes)
