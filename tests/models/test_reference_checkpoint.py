"""Checkpoints of the paper's code load through one function and give the logits that code computed."""
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from iebn_zoo.models import convert_reference_state_dict, load_reference_checkpoint
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.paths import FIXTURES

NETWORKS = {
    'reference_resnet20': ('iebn_resnet20_cifar', {}),
    'reference_resnet29_bottleneck': ('iebn_resnet164_cifar', {'layers': (3, 3, 3)})}
networks = pytest.mark.parametrize('network', NETWORKS)


def load_fixture(network):
    tensors = load_file(FIXTURES / f'{network}.safetensors')
    state = {k.removeprefix('state_dict.'): v for k, v in tensors.items() if k.startswith('state_dict.')}
    return state, tensors['input'], tensors['logits']


def create(network, **kwargs):
    name, args = NETWORKS[network]
    return timm.create_model(name, **{'num_classes': 100, **args, **kwargs}).eval()


def as_dict(state, folder):
    return state


def as_outer_dict(state, folder):
    return {'state_dict': state, 'epoch': 164, 'best_acc': 77.09}


def as_torch_file(state, folder):
    torch.save({'epoch': 164, 'state_dict': state, 'acc': 77.0, 'optimizer': {'state': {}, 'param_groups': []}},
               folder / 'model_best.pth.tar')
    return folder / 'model_best.pth.tar'


def as_old_torch_file(state, folder):
    torch.save({'state_dict': state}, folder / 'checkpoint.pth', _use_new_zipfile_serialization=False)
    return str(folder / 'checkpoint.pth')


def as_safetensors(state, folder):
    save_file(state, folder / 'model.safetensors')
    return folder / 'model.safetensors'


def as_unwrapped(state, folder):
    return {k.removeprefix('module.'): v for k, v in state.items()}


@networks
@pytest.mark.parametrize(
    'form', [as_dict, as_outer_dict, as_torch_file, as_old_torch_file, as_safetensors, as_unwrapped])
def test_same_logits(network, form, tmp_path):
    state, x, logits = load_fixture(network)
    model = create(network)
    assert load_reference_checkpoint(model, form(state, tmp_path)) is model
    with torch.no_grad():
        torch.testing.assert_close(model(x), logits, atol=1e-5, rtol=1e-5)


@networks
def test_conversion_names_every_tensor_once(network):
    state, _, _ = load_fixture(network)
    before = {k: v.clone() for k, v in state.items()}
    converted = convert_reference_state_dict(state)
    assert converted.keys() == create(network).state_dict().keys() and len(converted) == len(state)
    assert state.keys() == before.keys() and all(torch.equal(state[k], v) for k, v in before.items())


def refuse(model, checkpoint, *words, error=IEBNZooError):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(error) as caught:
        load_reference_checkpoint(model, checkpoint)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    assert all(str(word) in message for word in words), message
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), 'the model was changed'


@pytest.mark.parametrize('name, kwargs, words', [
    ('iebn_resnet32_cifar', {'num_classes': 100}, ('CifarResNet', 'layer1.3')),
    ('iebn_resnet20_cifar', {'num_classes': 10}, ('CifarResNet', 'fc.weight', '2 of another shape')),
    ('iebn_resnet20_cifar', {'num_classes': 100, 'layers': (3, 3, 2)}, ('has an unknown', 'layer3.2')),
    ('bn_resnet20_cifar', {'num_classes': 100}, ('CifarResNet', 'lacks', 'foreign')),
    ('iebn_resnet20_cifar', {'num_classes': 100, 'gate_downsample': True}, ('lacks', 'gate')),
], ids=['depth', 'num_classes', 'shallower', 'no_gates', 'gated_shortcuts'])
def test_another_network(name, kwargs, words):
    refuse(timm.create_model(name, **kwargs), load_fixture('reference_resnet20')[0], *words)


def test_missing_file(tmp_path):
    model = create('reference_resnet20')
    refuse(model, tmp_path / 'none.pth.tar', tmp_path / 'none.pth.tar', error=UsageError)
    refuse(model, tmp_path, tmp_path, error=UsageError)


@pytest.mark.parametrize('form', [as_torch_file, as_old_torch_file, as_safetensors])
@pytest.mark.parametrize('keep', [0, 5, 0.5, 0.99], ids=str)
def test_truncated_file(form, keep, tmp_path):
    path = Path(form(load_fixture('reference_resnet20')[0], tmp_path))
    data = path.read_bytes()
    path.write_bytes(data[:keep if isinstance(keep, int) else int(len(data) * keep)])
    refuse(create('reference_resnet20'), path, path)


@pytest.mark.parametrize('content', [
    [1, 2], 'text', {}, {'state_dict': 3}, {'state_dict': None}, {'state_dict': {'epoch': 3}}, {0: torch.ones(2)},
], ids=repr)
def test_file_of_something_else(content, tmp_path):
    torch.save(content, tmp_path / 'x.pth')
    refuse(create('reference_resnet20'), tmp_path / 'x.pth', tmp_path / 'x.pth')


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize('save', [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))], ids=['torch', 'pickle'])
def test_code_in_a_checkpoint_does_not_run(save, tmp_path):
    state, target = load_fixture('reference_resnet20')[0], tmp_path / 'ran'
    path = tmp_path / 'evil.pth.tar'
    save({'state_dict': state, 'extra': Malicious(target)}, path)
    refuse(create('reference_resnet20'), path, path)
    assert not target.exists()
    pickle.loads(pickle.dumps(Malicious(target)))
    assert target.exists(), 'the probe itself must work'
