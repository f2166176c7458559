"""Every checkpoint that the package carries loads offline, computes what was exported, and gets its card's count."""
import json
import os

import pytest
import timm
import torch
from safetensors.torch import load_file

from iebn_zoo.hub.card.evaluation_facts import read_evaluation
from iebn_zoo.hub.package.proof import prove
from iebn_zoo.training.config.arguments import validate_parser
from iebn_zoo.training.validate import validate
from iebn_zoo.weights.open import open_network
from tests.support.hub.exported import card_data
from tests.support.paths import ROOT
from tests.support.versions import OLD_TIMM

FOLDERS = sorted(path.parent for path in (ROOT / 'hub_cards').glob('*.*/model.safetensors'))
NAMES = [folder.name for folder in FOLDERS]
# where the images of a tag lie on this machine: a directory as --data-dir takes one
IMAGES = {'cifar100': os.environ.get('IEBN_ZOO_CIFAR100'), 'fashion_mnist': os.environ.get('IEBN_ZOO_FASHION_MNIST')}
DATASETS = {'fashion_mnist': 'torch/fashion_mnist'}

pytestmark = pytest.mark.parametrize('folder', FOLDERS, ids=NAMES)


def network(folder, **kwargs):
    return timm.create_model(folder.name, pretrained=True, **kwargs).eval()


def golden(folder):
    return load_file(folder / 'golden.safetensors')


@torch.no_grad()
def test_it_computes_what_was_exported(folder):
    assert folder.name in timm.list_pretrained('*_cifar*')
    saved = golden(folder)
    assert torch.allclose(network(folder)(saved['input']), saved['logits'], rtol=0, atol=1e-4)


def test_the_directory_is_as_it_was_exported(folder):
    proof = prove(folder)
    assert not proof.edited and 'evaluation.json' in proof.files
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2.5e6


@torch.no_grad()
def test_other_heads_and_inputs(folder):
    saved = golden(folder)
    images, backbone = saved['input'], network(folder, num_classes=0)
    assert backbone(images).shape == (len(images), backbone.num_features)
    assert network(folder, num_classes=7)(images).shape == (len(images), 7)
    chans = 3 if images.shape[1] == 1 else 1
    if chans == 1 or not OLD_TIMM:
        assert network(folder, in_chans=chans)(images[:, :1].expand(-1, chans, -1, -1)).isfinite().all()
    features = network(folder, features_only=True)(images)
    assert torch.equal(features[-1].mean((2, 3)), backbone(images))


def test_its_classes_have_names(folder):
    names = json.loads((folder / 'config.json').read_text())['label_names']
    opened = open_network(folder.name)
    assert opened.label_names == names and len(set(names)) == opened.model.num_classes
    assert 'label_names' not in timm.create_model(folder.name.split('.')[0]).pretrained_cfg  # a new network has none


def test_the_card_says_the_count(folder):
    evaluation, data = read_evaluation(folder), card_data((folder / 'README.md').read_text())
    assert data.eval_results[0].metric_value == round(evaluation.top1, 2)
    assert f'({evaluation.top1_count:,})' in (folder / 'README.md').read_text()


def test_it_gets_the_count_of_its_card(folder):
    tag = folder.name.partition('.')[2]
    if not IMAGES.get(tag):
        pytest.skip(f'IEBN_ZOO_{tag.upper()} does not say where the images are')
    flags = ['--model', folder.name, '--data-dir', IMAGES[tag], '--dataset', DATASETS.get(tag, ''), '--device', 'cpu',
             '-j', '0']
    found = validate(validate_parser().parse_args(flags))
    evaluation = read_evaluation(folder)
    assert (found['top1_count'], found['count']) == (evaluation.top1_count, evaluation.count)
