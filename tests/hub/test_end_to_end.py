"""The main job: train, export, push, load by hf-hub and get the same answers, with the commands a user types."""
import json
import os
import subprocess
import sys

from iebn_zoo.commands.hub.export import main as export
from iebn_zoo.commands.train import main as train
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from tests.support.hub.loopback import WRITE_TOKEN
from tests.support.paths import ROOT
from tests.support.training.datasets import flags


def script(name, *argv, env):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(('HF_', 'HUGGING'))}
    return subprocess.run([sys.executable, ROOT / 'scripts' / name, *map(str, argv)], capture_output=True, text=True,
                          env={**clean, 'OMP_NUM_THREADS': '1', **env}, timeout=300)


def test_train_export_push_load_validate(hub, image_folder, tmp_path):
    run, exported = tmp_path / 'run', tmp_path / 'export'
    train(flags(image_folder, run, '--epochs', '4', '--no-aug'))
    export([str(run), '--output', str(exported)])

    pushed = script('push_to_hub.py', exported, '--repo-id', 'me/colours', env=hub.env(tmp_path / 'a', WRITE_TOKEN))
    assert pushed.returncode == 0, pushed.stderr
    card = hub.files('me/colours')['README.md'].decode()
    assert "timm.create_model('hf-hub:me/colours'" in card and 'OWNER/NAME' not in card

    measured = script('validate.py', '--model', 'hf-hub:me/colours', '--data-dir', image_folder, '-j', '0',
                      env=hub.env(tmp_path / 'b', ''))
    assert measured.returncode == 0, measured.stderr
    results = json.loads(measured.stdout)
    row = load_checkpoint(run / LAST)['rows'][-1]
    assert results['count'] == 21 and results['top1_count'] == round(row['eval_top1'] * 21 / 100)
    assert results['top1_count'] > 7  # more than one class
