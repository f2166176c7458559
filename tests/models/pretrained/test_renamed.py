"""Checkpoints of a network that has been renamed: *_resnext29_8x64d_cifar was what *_resnext29_8x32d_cifar is."""
import pytest
import timm
import torch
from timm.models import save_for_hf

from iebn_zoo.training.run.checkpoint import load_checkpoint, save_checkpoint
from iebn_zoo.weights.open import open_network

SMALL = {'layers': (1, 1, 1), 'num_classes': 3}


@pytest.mark.parametrize('norm', ['bn', 'iebn'])
def test_an_old_checkpoint_opens_under_the_new_name(tmp_path, norm):
    torch.manual_seed(0)
    model = timm.create_model(f'{norm}_resnext29_8x32d_cifar', **SMALL)
    file = tmp_path / 'last.pth.tar'
    save_checkpoint(file, dict(arch=f'{norm}_resnext29_8x64d_cifar', model_args=dict(SMALL, layers=[1, 1, 1]), epoch=0,
                               state_dict=model.state_dict(), data_config={}, args={}))
    assert load_checkpoint(file)['arch'] == f'{norm}_resnext29_8x32d_cifar'
    network = open_network(checkpoint=file)
    assert network.arch == f'{norm}_resnext29_8x32d_cifar'
    torch.testing.assert_close(network.model.state_dict(), model.state_dict())


def test_todays_network_keeps_its_name(tmp_path):
    model = timm.create_model('iebn_resnext29_8x64d_cifar', **SMALL)
    file = tmp_path / 'last.pth.tar'
    save_checkpoint(file, dict(arch='iebn_resnext29_8x64d_cifar', model_args=dict(SMALL, layers=[1, 1, 1]), epoch=0,
                               state_dict=model.state_dict(), data_config={}, args={}))
    assert open_network(checkpoint=file).arch == 'iebn_resnext29_8x64d_cifar'


def test_an_old_export_says_what_its_network_is_called_now(tmp_path):
    model = timm.create_model('iebn_resnext29_8x32d_cifar', **SMALL)
    model.pretrained_cfg['architecture'] = 'iebn_resnext29_8x64d_cifar'
    save_for_hf(model, str(tmp_path), model_args={'layers': [1, 1, 1]})
    with pytest.raises(ValueError, match='is now iebn_resnext29_8x32d_cifar'):
        timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
