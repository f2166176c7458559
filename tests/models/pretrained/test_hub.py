"""timm's repositories on a loopback Hub, made by timm's own export: the real client downloads, ours converts."""
import json
import os
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import get_pretrained_cfg, save_for_hf

from tests.support.hub.loopback import LoopbackHub
from tests.support.models.bn_networks import SMALL, TOLERANCE, bn_network, images, relative_error
from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures('warm_python')


def exported(model, folder, **kwargs):
    """The files of timm's export."""
    save_for_hf(model, str(folder), **kwargs)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def gated_network(seed):
    """A small IEBN network whose gates depend on the image, as after training."""
    torch.manual_seed(seed)
    model = timm.create_model('iebn_resnet18', num_classes=6, **SMALL).eval()
    for name, parameter in model.named_parameters():
        if 'gate_weight' in name:
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture(scope='module')
def networks():
    """What stands on the Hub."""
    return {
        'old': bn_network('resnet18', seed=1), 'resnet18': bn_network('resnet18'),
        'resnet26': bn_network('resnet26', **SMALL), 'bamboo': bn_network('resnet50', num_classes=0, **SMALL),
        'iebn old': gated_network(1), 'iebn': gated_network(2)}


@pytest.fixture(scope='module')
def served(networks, tmp_path_factory):
    """The answers and the outputs of one client process that went through all cases, and the requests it made."""
    tmp_path = tmp_path_factory.mktemp('served')
    with LoopbackHub() as hub:
        def put(repo_id, key, add=hub.add_repo, **kwargs):
            return add(repo_id, exported(networks[key], tmp_path / key, **kwargs)).oid

        safe = dict(safe_serialization=True)
        old = put('timm/resnet18.a1_in1k', 'old', **safe)
        put('timm/resnet18.a1_in1k', 'resnet18', hub.commit, **safe)
        put('timm/resnet26.bt_in1k', 'resnet26')  # a pickle, as the oldest of timm's repositories
        put('timm/resnet50.bamboo', 'bamboo', **safe)
        iebn_old = put('me/iebn', 'iebn old', model_args=SMALL, **safe)
        put('me/iebn', 'iebn', hub.commit, model_args=SMALL, **safe)
        pickle = f'{hub.url}/timm/resnet26.bt_in1k/resolve/main/pytorch_model.bin'
        cases = {
            'tag': ['iebn_resnet18.bn_a1_in1k', {}],
            'default tag': ['iebn_resnet18', {}],
            'revision': ['iebn_resnet18', dict(pretrained_cfg_overlay=dict(hf_hub_id=f'timm/resnet18.a1_in1k@{old}'))],
            'cache_dir': ['iebn_resnet18.bn_a1_in1k', dict(cache_dir=str(tmp_path / 'other_cache'))],
            'new head': ['iebn_resnet18.bn_a1_in1k', dict(num_classes=7, in_chans=1)],
            'features': ['iebn_resnet18.bn_a1_in1k', dict(features_only=True)],
            'pickle': ['iebn_resnet26.bn_bt_in1k', SMALL],
            'url': ['iebn_resnet26', dict(pretrained_cfg_overlay=dict(url=pickle, hf_hub_id=None), **SMALL)],
            'headless': ['iebn_resnet50', dict(
                pretrained_cfg_overlay=dict(hf_hub_id='timm/resnet50.bamboo', num_classes=0), **SMALL)],
            'iebn': ['hf-hub:me/iebn', {}],
            'iebn revision': [f'hf-hub:me/iebn@{iebn_old}', {}],
            'other network': ['iebn_resnet18.bn_a1_in1k', SMALL],
            'no repository': ['iebn_resnet34.bn_a1_in1k', {}],
        }
        clean = {k: v for k, v in os.environ.items() if not k.startswith(('HF_', 'HUGGING', 'TORCH_HOME'))}
        done = subprocess.run(
            [sys.executable, '-m', 'tests.support.models.pretrained_client'],
            capture_output=True, text=True, timeout=600, cwd=ROOT,
            input=json.dumps(dict(output=str(tmp_path / 'outputs.safetensors'), cases=cases)),
            env={**clean, 'OMP_NUM_THREADS': '1', 'TORCH_HOME': str(tmp_path / 'torch'), **hub.env(tmp_path / 'home')})
        assert done.returncode == 0, done.stderr
        requests = [(r.method, r.path, r.status) for r in hub.requests]
    assert list((tmp_path / 'other_cache').glob('models--timm--resnet18.a1_in1k'))
    return json.loads(done.stdout.splitlines()[-1]), load_file(tmp_path / 'outputs.safetensors'), requests


@pytest.mark.parametrize('case, network', [
    ('tag', 'resnet18'), ('default tag', 'resnet18'), ('revision', 'old'), ('cache_dir', 'resnet18'),
    ('pickle', 'resnet26'), ('url', 'resnet26'), ('headless', 'bamboo')])
@torch.no_grad()
def test_same_function_as_the_bn_network(served, networks, case, network):
    answers, outputs, _ = served
    assert 'error' not in answers[case], answers[case]
    bn, x = networks[network], images()
    assert relative_error(outputs[f'{case}/features'], bn.forward_features(x)) <= TOLERANCE
    assert relative_error(outputs[f'{case}/logits'], bn(x)) <= TOLERANCE
    assert outputs[f'{case}/logits'].shape == (2, 512 if case == 'headless' else 1000)


@torch.no_grad()
def test_adapted(served, networks):
    _, outputs, _ = served
    bn = timm.create_model('resnet18', num_classes=7, in_chans=1, pretrained=True, pretrained_cfg_overlay=dict(
        state_dict=networks['resnet18'].state_dict())).eval()
    assert relative_error(outputs['new head/features'], bn.forward_features(images(chans=1))) <= TOLERANCE
    assert outputs['new head/logits'].shape == (2, 7)
    maps = networks['resnet18'].forward_intermediates(images(), intermediates_only=True)
    for i, expected in enumerate(maps):
        assert relative_error(outputs[f'features/{i}'], expected) <= TOLERANCE
    assert len(maps) == 5 and 'features/5' not in outputs


@torch.no_grad()
def test_iebn_repository_is_not_converted(served, networks):
    _, outputs, _ = served
    for case, network in (('iebn', 'iebn'), ('iebn revision', 'iebn old')):
        assert outputs[f'{case}/logits'].equal(networks[network](images())), case


def test_cfg_of_the_model(served):
    answers, _, _ = served
    for case in ('tag', 'default tag', 'new head'):
        cfg = answers[case]['cfg']
        expected = get_pretrained_cfg('iebn_resnet18.bn_a1_in1k').to_dict()
        assert cfg == json.loads(json.dumps(expected)) and cfg['hf_hub_id'] == 'timm/resnet18.a1_in1k'
    assert answers['headless']['cfg']['num_classes'] == 0


def test_the_client_fetched_the_bn_weights(served):
    _, _, requests = served
    fetched = [path for method, path, status in requests if method == 'GET' and status == 200]
    # resnet18: two revisions, and main once more for the other cache; resnet26: by the Hub's client, and by its URL
    for path, count in (('resnet18.a1_in1k', 3), ('resnet26.bt_in1k', 2), ('resnet50.bamboo', 1)):
        weights = [url for url in fetched if url.startswith(f'/timm/{path}/resolve/')]
        assert len(weights) == count and all(url.endswith(('.safetensors', '.bin')) for url in weights), weights
    assert not any('iebn_resnet' in url for _, url, _ in requests)  # nobody hosts anything under our names


def test_errors_are_messages(served):
    answers, _, _ = served
    for case, words in (('no repository', ('cannot load iebn_resnet34.bn_a1_in1k',)),
                        ('other network', ('the weights do not fit iebn_resnet18',))):
        error = answers[case]['error']
        assert len(error.splitlines()) <= 3 and all(word in error for word in words), error
