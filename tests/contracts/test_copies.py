"""Copies, averages and files of a network keep its gates."""
import copy
import json
import pickle

import pytest
import safetensors.torch
import timm
import torch
from timm.models import save_for_hf
from timm.utils import ModelEmaV3
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.layers.start import initial_weight
from tests.support.contracts.networks import CIFAR, CLASSES, KWARGS, NETWORKS, create, difference, images, network
from tests.support.layers import randomized

networks = pytest.mark.parametrize('name', NETWORKS)
layers = pytest.mark.parametrize('layer_class', [IEBatchNorm2d, IEBatchNormAct2d])


def moved(model, step):
    """A copy a training step later, as far as an average can see."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.mul_(1 + 0.2 * torch.rand(value.shape, generator=generator))
    return model


def assert_state(model, expected):
    state = model.state_dict()
    assert list(state) == list(expected)
    for key, value in expected.items():
        torch.testing.assert_close(state[key].to(value.dtype), value, msg=key)


@networks
def test_model_ema_v3(name):
    model = network(name)
    ema = ModelEmaV3(model, decay=0.75)
    later = moved(model, 1)
    expected = {k: v.lerp(later.state_dict()[k], 0.25) if v.is_floating_point() else later.state_dict()[k]
                for k, v in model.state_dict().items()}
    ema.update(later)
    assert_state(ema.module, expected)
    assert all(not torch.equal(v, model.state_dict()[k]) for k, v in expected.items() if 'gate_' in k)
    twin = create(name).eval()
    twin.load_state_dict(expected)
    x = images(2, 1)
    with torch.no_grad():
        assert difference(ema(x), twin(x)) < 1e-5


@networks
@pytest.mark.parametrize('use_buffers', [False, True])
def test_averaged_model(name, use_buffers):
    first, second = (moved(network(name), i) for i in (1, 2))
    averaged = AveragedModel(first, use_buffers=use_buffers)
    for model in (first, second):
        averaged.update_parameters(model)
    parameters = dict(first.named_parameters())
    for key, value in averaged.module.named_parameters():
        torch.testing.assert_close(value, (parameters[key] + second.get_parameter(key)) / 2, msg=key)
    if use_buffers:
        torch.testing.assert_close(
            averaged.module.bn1.bn.running_var, (first.bn1.bn.running_var + second.bn1.bn.running_var) / 2)
    else:
        update_bn([images(8, 1)], averaged)
        assert averaged.module.bn1.bn.num_batches_tracked == 1
    assert averaged.eval()(images(2)).isfinite().all()


def test_averaged_model_by_ema():
    first, second = network(CIFAR), moved(network(CIFAR), 1)
    averaged = AveragedModel(first, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for model in (first, second):
        averaged.update_parameters(model)
    key = 'layer2.0.bn2.gate_weight'
    torch.testing.assert_close(
        averaged.module.get_parameter(key), 0.9 * first.get_parameter(key) + 0.1 * second.get_parameter(key))


@networks
@pytest.mark.parametrize('duplicate', [
    copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=['deepcopy', 'pickle'])
def test_duplicate(name, duplicate):
    model, x = network(name), images(4, 1)
    twin = duplicate(model)
    for training in (True, False):
        assert difference(twin.train(training)(x), model.train(training)(x)) == 0
    assert not {v.data_ptr() for v in model.state_dict().values()} & {v.data_ptr() for v in twin.state_dict().values()}


@networks
def test_safetensors(name, tmp_path):
    model, x = network(name), images(2, 1)
    path = str(tmp_path / 'model.safetensors')
    safetensors.torch.save_model(model, path)
    twin = create(name).eval()
    assert safetensors.torch.load_model(twin, path) == (set(), [])
    with torch.no_grad():
        assert difference(twin(x), model(x)) == 0
    other = timm.create_model(name, num_classes=CLASSES, checkpoint_path=path, **KWARGS[name]).eval()
    with torch.no_grad():
        assert difference(other(x), model(x)) == 0


@networks
def test_torch_save(name, tmp_path):
    model, x = network(name), images(2, 1)
    torch.save(model.state_dict(), tmp_path / 'model.pth')
    twin = create(name).eval()
    twin.load_state_dict(torch.load(tmp_path / 'model.pth', weights_only=True))
    with torch.no_grad():
        assert difference(twin(x), model(x)) == 0


@networks
def test_save_for_hf_and_local_dir(name, tmp_path):
    """The name and its arguments are enough: timm rebuilds the gated network from the directory."""
    model, x = network(name), images(2, 1)
    save_for_hf(model, tmp_path, safe_serialization=True)
    assert json.loads((tmp_path / 'config.json').read_text())['architecture'] == name
    twin = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    with torch.no_grad():
        assert difference(twin(x), model(x)) == 0
    features = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, features_only=True).eval()
    with torch.no_grad():
        assert difference(features(x)[-1], model.forward_features(x)) == 0


@networks
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_functional_call(name, training):
    model, other, x = network(name).train(training), moved(network(name), 1).train(training), images(4, 1)
    before = copy.deepcopy(model.state_dict())
    state = {k: v.clone() for k, v in other.state_dict().items()}
    with torch.no_grad():
        y = functional_call(model, state, (x,))
        assert difference(y, other(x)) < 1e-6
        assert difference(y, model.eval()(x)) > 0.01
    assert_state(model, before)
    for key, value in other.state_dict().items():  # the call moved the statistics it was given
        torch.testing.assert_close(state[key], value, msg=key)


@networks
def test_built_on_the_meta_device(name):
    """Nothing is allocated; weights assigned later, or the network's own initialization, make it a real one."""
    model, x = network(name), images(2, 1)
    assigned = create(name, device='meta').eval()
    assert all(v.is_meta for v in assigned.state_dict().values())
    assert assigned(x.to('meta')).shape == (2, CLASSES)
    assigned.load_state_dict(model.state_dict(), assign=True)
    with torch.no_grad():
        assert difference(assigned(x), model(x)) == 0
    with torch.device('meta'):
        inside = create(name)
    assert all(v.is_meta for v in inside.state_dict().values())
    inside.to_empty(device='cpu')
    for module in inside.modules():
        if hasattr(module, 'reset_parameters'):
            module.reset_parameters()
    for module in inside.modules():
        if isinstance(module, IEBatchNorm2d):
            assert module.gate_weight.unique().tolist() == [0] and module.gate_bias.unique().tolist() == [-1]
            assert module.bn.running_var.unique().tolist() == [1]
            assert module.weight.unique().tolist() == [pytest.approx(initial_weight(module.start))]
    assert inside(x).isfinite().all()


@layers
def test_layer(layer_class, tmp_path):
    """The same of one layer."""
    layer, x = randomized(layer_class(6, momentum=None)), torch.randn(4, 6, 5, 5)
    expected = copy.deepcopy(layer)(x)
    path = str(tmp_path / 'layer.safetensors')
    safetensors.torch.save_file(layer.state_dict(), path)
    loaded = layer_class(6, momentum=None)
    loaded.load_state_dict(safetensors.torch.load_file(path))
    with torch.device('meta'):
        assigned = layer_class(6, momentum=None)
    assigned.load_state_dict({k: v.clone() for k, v in layer.state_dict().items()}, assign=True)
    averaged = AveragedModel(nn.Sequential(layer))
    averaged.update_parameters(nn.Sequential(layer))
    ema = ModelEmaV3(nn.Sequential(layer), decay=0.5)
    ema.update(nn.Sequential(layer))
    for twin in (loaded, assigned, averaged.module[0], ema.module[0].train()):
        assert difference(twin(x), expected) == 0
