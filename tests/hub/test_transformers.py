"""transformers loads what we export and what stands in hub_cards/, with timm's logits. It passes num_classes itself."""
import json
import os
import shutil
import subprocess
import sys

import pytest
import safetensors.torch
import timm
import torch

from iebn_zoo.hub.package.check import check_directory
from iebn_zoo.hub.package.export import export
from iebn_zoo.weights.config_check import check_config
from iebn_zoo.weights.settings import cfg_of
from tests.support.hub.converting import convert, load
from tests.support.hub.exported import edit_golden
from tests.support.hub.runs import make_run
from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures('warm_python')

CARDS = sorted(path.parent for path in (ROOT / 'hub_cards').glob('*/config.json'))
LOAD = '''
import json, sys, timm, torch, iebn_zoo
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

torch.manual_seed(0)
answers = []
for directory in sys.argv[1:]:
    ours = timm.create_model('local-dir:' + directory, pretrained=True).eval()
    model = AutoModelForImageClassification.from_pretrained(directory).eval()
    data = timm.data.resolve_model_data_config(ours)
    x = torch.randn(2, *data['input_size'])
    grey = data['input_size'][0] == 1
    image = Image.effect_noise((50, 40), 80).convert('L' if grey else 'RGB')
    ready = AutoImageProcessor.from_pretrained(directory)(image, return_tensors='pt')['pixel_values']
    expected = timm.data.create_transform(**data, is_training=False)(image)[None]
    with torch.inference_mode():
        difference = (model(x).logits - ours(x)).abs().max().item()
        top = int(ours(expected).argmax())
        named = model.config.id2label[int(model(ready).logits.argmax())]
    # a pipeline makes each image RGB, which a network of grey images cannot take: there the card's own lines
    best = named if grey else pipeline('image-classification', model=directory)(image)[0]['label']
    answers.append([difference, (ready - expected).abs().max().item(), model.config.num_labels, best,
                    ours.pretrained_cfg['label_names'][top]])
print(json.dumps(answers))
'''


@pytest.fixture
def exports(tmp_path, monkeypatch, capsys):
    """An export of a run, a converted network, and the committed configs with weights that fit them."""
    for module in ('package.export', 'convert.directory'):
        monkeypatch.setattr(f'iebn_zoo.hub.{module}.reload_fresh', lambda made: check_directory(made).difference)
    made = [export(make_run(tmp_path / 'run', ema=False), tmp_path / 'exported')[0]]
    made += [export(make_run(tmp_path / 'bn', 'bn_resnet20_cifar', ema=False), tmp_path / 'exported_bn')[0]]
    assert convert(capsys, '--model', f'local-dir:{made[1]}', '--output', tmp_path / 'converted')[0] == 0
    made.append(tmp_path / 'converted')
    for card in CARDS:
        directory = tmp_path / card.name
        directory.mkdir()
        shutil.copy(card / 'config.json', directory)
        torch.manual_seed(1)
        model = timm.create_model(f'local-dir:{directory}', pretrained=False)
        safetensors.torch.save_file(model.state_dict(), directory / 'model.safetensors', {'format': 'pt'})
        made.append(directory)
    return made


def test_logits_images_and_names_are_those_of_timm(exports, tmp_path):
    pytest.importorskip('transformers')
    clean = {k: v for k, v in os.environ.items() if not k.startswith(('HF_', 'HUGGING'))}
    done = subprocess.run([sys.executable, '-c', LOAD, *map(str, exports)], capture_output=True, text=True, cwd=ROOT,
                          env={**clean, 'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path / 'home')}, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(answers) == len(exports) >= 5
    for directory, (logits, pixels, classes, best, expected) in zip(exports, answers, strict=True):
        assert logits <= 1e-5 and pixels <= 1e-6 and best == expected, directory
        assert classes == json.loads((directory / 'config.json').read_text())['num_classes']


def test_timm_builds_the_classes_that_stand_at_the_top(exports):
    for directory in exports:
        config = json.loads((directory / 'config.json').read_text())
        assert 'num_classes' not in config['model_args'] and check_config(directory / 'config.json') == config
        for pretrained in (True, False):
            whole = timm.create_model(f'local-dir:{directory}', pretrained=pretrained)
            classes = config['num_classes']
            assert whole.num_classes == classes == len(whole.get_parameter(f'{cfg_of(whole)["classifier"]}.weight'))
        x = torch.zeros(1, *cfg_of(load(directory))['input_size'])
        assert load(directory, num_classes=0)(x).ndim == 2
        assert load(directory, num_classes=7).num_classes == 7
        assert load(directory, features_only=True)(x)[0].ndim == 4


def test_a_config_of_older_exports_that_says_it_twice_still_passes(export_dir):
    path = export_dir / 'config.json'
    config = json.loads(path.read_text())
    config['model_args'] = {**config.get('model_args', {}), 'num_classes': 4}
    path.write_text(json.dumps(config))
    edit_golden(export_dir)
    assert check_directory(export_dir).difference <= 1e-5
