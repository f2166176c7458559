"""The Hub is checked like a directory, and what is loaded is said in one line; one client process, a real server."""
import json
import os
import subprocess
import sys
from typing import Any, Dict

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from tests.support.hub.exported import make_export
from tests.support.hub.loopback import LoopbackHub
from tests.support.weights.files import export_with

pytestmark = pytest.mark.usefixtures('warm_python')

SMALL: Dict[str, Any] = dict(layers=[1, 1, 1, 1], channels=[8, 8, 16, 16])
CLIENT = '''
import json, sys
from iebn_zoo.weights.open import open_network, start_network
answers = {}
for key, (name, kwargs) in json.loads(sys.argv[1]).items():
    try:
        if kwargs is None:
            n = open_network(name)
            answers[key] = [n.description, n.base_model, n.label_names, n.data_config['mean']]
        else:
            start = start_network(name, True, kwargs)
            answers[key] = [start.description, start.model.num_classes, start.model.pretrained_cfg['hf_hub_id']]
    except Exception as e:
        answers[key] = [type(e).__name__, str(e)]
print(json.dumps(answers))
'''
LABELS = ['class 0', 'class 1', 'class 2']


def served(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def backbone(folder):
    """An export without a classifier, to be given one."""
    def headless(config):
        for part in (config, config['pretrained_cfg'], config.get('model_args') or {}):
            part.pop('label_names', None)
            part.pop('num_classes', None)
        config['num_classes'] = config['pretrained_cfg']['num_classes'] = 0

    export_with(folder, headless)
    state = load_file(folder / 'model.safetensors')
    save_file({k: v for k, v in state.items() if not k.startswith('fc.')}, folder / 'model.safetensors')
    return folder


def not_finite(folder):
    make_export(folder, num_classes=3)
    state = load_file(folder / 'model.safetensors')
    state['fc.bias'].fill_(float('nan'))
    save_file(state, folder / 'model.safetensors')
    return folder


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hub')

    def config(name, change):
        return served(export_with(folder / name, change))

    torch.manual_seed(0)
    save_for_hf(timm.create_model('resnet18', **SMALL), folder / 'timms', model_args=SMALL, safe_serialization=True)
    good = served(make_export(folder / 'good', num_classes=3))
    with LoopbackHub() as hub:
        hub.add_repo('timm/resnet18.a1_in1k', served(folder / 'timms'))
        first = hub.add_repo('me/good', good).oid
        hub.commit('me/good', config('second', lambda c: c['pretrained_cfg'].update(mean=[0.1, 0.1, 0.1])))
        hub.add_repo('me/mean', config('mean', lambda c: c['pretrained_cfg'].pop('mean')))
        hub.add_repo('me/classes', config('classes', lambda c: c['pretrained_cfg'].update(num_classes=9)))
        hub.add_repo('me/nan', served(not_finite(folder / 'nan')))
        hub.add_repo('me/nothing', {'README.md': b'x'})
        hub.add_repo('me/bare', {'config.json': good['config.json']})
        hub.add_repo('me/backbone', served(backbone(folder / 'backbone')))
        cases = {
            'newest': ['hf-hub:me/good', None], 'old': [f'hf-hub:me/good@{first}', None],
            'tuned': ['hf-hub:me/good', {'num_classes': 7}], 'mean': ['hf-hub:me/mean', None],
            'classes': ['hf-hub:me/classes', None], 'classes too': ['hf-hub:me/classes', {'num_classes': 7}],
            'nan': ['hf-hub:me/nan', None], 'nan too': ['hf-hub:me/nan', {'num_classes': 7}],
            'nothing': ['hf-hub:me/nothing', None], 'bare': ['hf-hub:me/bare', None], 'none': ['hf-hub:me/none', None],
            'deep': ['hf-hub:me/a/b/c', None], 'empty': ['hf-hub:', None], 'scheme': ['https:me/x', None],
            'revision': ['hf-hub:me/good@' + 'f' * 40, None], 'headless': ['hf-hub:me/backbone', None],
            'new head': ['hf-hub:me/backbone', {'num_classes': 5}],
            'converted': ['iebn_resnet18.bn_a1_in1k', {'num_classes': 8, **SMALL}],
            'grey': ['resnet18.a1_in1k', {'in_chans': 1, **SMALL}]}
        env = {k: v for k, v in os.environ.items() if not k.startswith(('HF_', 'HUGGING'))}
        done = subprocess.run(
            [sys.executable, '-c', CLIENT, json.dumps(cases)], text=True, capture_output=True, timeout=600,
            env={**env, 'OMP_NUM_THREADS': '1', **hub.env(folder / 'home')})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_repository_at_its_newest_commit_and_at_another(answers):
    said = 'loaded iebn_resnet20_cifar from me/good'
    assert answers['newest'] == [f'{said} (IEBN; 3 classes)', 'me/good', LABELS, [0.1] * 3]
    old = answers['old']
    assert old[0].startswith(f'{said}@') and old[1:3] == ['me/good', LABELS] and old[3] != [0.1] * 3


def test_what_a_training_starts_from_is_said(answers):
    assert answers['tuned'] == ['started from me/good (IEBN; new classifier: 3 -> 7 classes)', 7, 'me/good']
    assert answers['new head'][:2] == ['started from me/backbone (IEBN; new classifier: 5 classes)', 5]
    said = 'started from timm/resnet18.a1_in1k'
    assert answers['converted'][0] == f'{said} (BN, converted; new classifier: 1000 -> 8 classes)'
    assert answers['grey'][0] == f'{said} (BN; first layer adapted: 3 -> 1 channels)'


@pytest.mark.parametrize('key, word', [
    ('mean', 'pretrained_cfg.mean is missing'), ('classes', 'pretrained_cfg.num_classes is 9'),
    ('classes too', 'pretrained_cfg.num_classes is 9'), ('nan', 'fc.bias has NaN'), ('nan too', 'fc.bias has NaN'),
    ('nothing', 'has no config.json'), ('bare', 'holds no weights'), ('none', 'cannot load hf-hub:me/none'),
    ('deep', 'names no repository'), ('empty', 'unknown model'), ('scheme', 'unknown model'),
    ('revision', 'cannot load'), ('headless', 'num_classes is 0')])
def test_what_is_wrong_is_a_message(answers, key, word):
    kind, message = answers[key]
    assert kind in ('IEBNZooError', 'UsageError') and word in message and len(message.splitlines()) <= 3
