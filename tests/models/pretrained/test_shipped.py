"""The checkpoints that the package carries: found by their directories, loaded offline, and with classes by name."""
import pytest
import timm
import torch
from timm.models import save_for_hf

from iebn_zoo.models.iebn_cifar import CIFAR_MEAN
from iebn_zoo.models.pretrained import shipped_cfgs, shipped_label_names
from iebn_zoo.util import resources

ARCH = 'iebn_resnet20_cifar'
WITHOUT_WEIGHTS = dict(url='', num_classes=100, input_size=(3, 32, 32), mean=CIFAR_MEAN, classifier='fc', license='mit')


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A directory of checkpoints as hub_cards is one."""
    monkeypatch.setitem(resources._HOMES, 'hub_cards', (tmp_path / 'absent', tmp_path))
    return tmp_path


@pytest.fixture
def shipped(home):
    """A network whose weights lie in the directory of checkpoints, and in it one more without weights."""
    model = timm.create_model(ARCH, num_classes=3, in_chans=1).eval()
    model.pretrained_cfg.update(input_size=(1, 28, 28), mean=(0.25,), std=(0.5,), license='apache-2.0')
    save_for_hf(model, str(home / f'{ARCH}.toy'), model_config={'label_names': ['a', 'b', 'c']},
                safe_serialization=True)
    (home / f'{ARCH}.card_alone').mkdir()
    (home / 'iebn_resnet200_cifar.toy').mkdir()
    return model


def test_cfg_is_that_of_the_directory(shipped):
    cfgs = shipped_cfgs(ARCH, WITHOUT_WEIGHTS)
    assert list(cfgs) == [f'{ARCH}.toy']
    cfg = cfgs[f'{ARCH}.toy']
    assert cfg.has_weights and cfg.url is None and cfg.hf_hub_id is None
    assert (cfg.num_classes, cfg.input_size, cfg.mean, cfg.std) == (3, (1, 28, 28), (0.25,), (0.5,))
    assert (cfg.license, cfg.classifier) == ('apache-2.0', 'fc')
    assert cfg.label_names is None  # a new network has this cfg too


def test_weights_load_from_the_directory(shipped):
    cfg = shipped_cfgs(ARCH, WITHOUT_WEIGHTS)[f'{ARCH}.toy']
    model = timm.create_model(ARCH, pretrained=True, pretrained_cfg=cfg).eval()
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(model(images), shipped(images))


def test_the_default_is_of_the_images_of_a_new_network(shipped, home):
    for tag, model in (('a_first', shipped), ('z_last', timm.create_model(ARCH))):
        save_for_hf(model, str(home / f'{ARCH}.{tag}'), safe_serialization=True)
    assert list(shipped_cfgs(ARCH, WITHOUT_WEIGHTS)) == [f'{ARCH}.{tag}' for tag in ('z_last', 'a_first', 'toy')]


def test_label_names_are_of_these_weights_alone(shipped):
    cfg = dict(shipped_cfgs(ARCH, WITHOUT_WEIGHTS)[f'{ARCH}.toy'].to_dict(), architecture=ARCH, tag='toy')
    assert shipped_label_names(cfg) == ['a', 'b', 'c']
    for other in (dict(tag='card_alone'), dict(tag=None), dict(architecture='bn_resnet20_cifar'), dict(file=None),
                  dict(file='elsewhere/model.safetensors')):
        assert shipped_label_names({**cfg, **other}) is None


def test_without_directory_there_are_no_weights(home):
    cfgs = shipped_cfgs(ARCH, WITHOUT_WEIGHTS)
    assert list(cfgs) == [ARCH] and not cfgs[ARCH].has_weights and cfgs[ARCH].license == 'mit'
