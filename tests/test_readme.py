"""The documents: their code runs, the command lines that they show are accepted, and their links lead somewhere."""
import importlib
import os
import re
import shlex
import subprocess
import sys

import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from iebn_zoo.cli import COMMANDS
from tests.support.hub.loopback import LoopbackHub
from tests.support.paths import ROOT

DOCUMENTS = sorted([ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'iebn_zoo').rglob('README.md'),
                    ROOT / 'scripts' / 'README.md', *(ROOT / 'scripts' / 'benchmarks').rglob('README.md'),
                    ROOT / 'hub_cards' / 'README.md', ROOT / 'hub_cards' / 'space' / 'README.md',
                    ROOT / 'CHANGELOG.md'])
DOORS = {'push_to_hub': 'push'}  # scripts whose command has another name
AFTER_CLASSIFY = 'assert probabilities.shape == (1, 1000) and abs(float(probabilities.sum()) - 1) < 1e-5\n'
AFTER_CONVERT = '''
images, again = torch.randn(2, 3, 64, 64), timm.create_model('resnet50.a1_in1k', pretrained=True).eval()
with torch.no_grad():
    torch.testing.assert_close(model.eval()(images), again(images), atol=1e-4, rtol=1e-4)
trained = timm.create_model('iebn_resnet18', num_classes=3)
folded, report = iebn_zoo.fold_gates(trained, images)
folded, report = iebn_zoo.fold_gates(trained, [images, images])
'''


def name_of(path):
    return str(path.relative_to(ROOT))


def python_blocks(path):
    return re.findall(r'^```python\n(.*?)^```', path.read_text(encoding='utf-8'), flags=re.M | re.S)


def command_lines():
    for path in DOCUMENTS:
        text = path.read_text(encoding='utf-8').replace('\\\n', ' ')
        for line in re.findall(r'^    ((?:iebn-zoo|python scripts/\S+\.py) .*)$', text, flags=re.M):
            if ' ...' not in line and '$' not in line:
                yield pytest.param(line, id=f'{name_of(path)}: {line[:50]}')


@pytest.mark.parametrize('line', list(command_lines()))
def test_a_command_that_is_shown_is_accepted(line):
    words = shlex.split(line, comments=True)
    if words[0] == 'python':
        script = os.path.basename(words.pop(0) and words[0]).removesuffix('.py')
        assert (ROOT / words[0]).is_file()
        words[0] = DOORS.get(script, script)
    else:
        words.pop(0)
    command, *flags = words
    parser = importlib.import_module(COMMANDS[command][0]).build_parser()
    if '--' in flags:  # compare hands the rest to train, whose parser is asked in turn
        flags, rest = flags[:flags.index('--')], flags[flags.index('--') + 1:]
        importlib.import_module(COMMANDS['train'][0]).build_parser().parse_args(rest)
    parser.parse_args(flags)


@pytest.mark.parametrize('path', DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path):
    text = path.read_text(encoding='utf-8')
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'https?:', target):
            continue
        place, _, anchor = target.partition('#')
        file = (path.parent / place) if place else path
        assert file.exists(), target
        if anchor:
            heads = re.findall(r'^#+ (.*)$', file.read_text(encoding='utf-8'), flags=re.M)
            assert anchor in [re.sub(r'[^\w\- ]', '', head.lower()).replace(' ', '-') for head in heads], target


def test_readme_is_short():
    assert len((ROOT / 'README.md').read_text(encoding='utf-8').splitlines()) <= 130


@pytest.mark.parametrize('path', DOCUMENTS, ids=name_of)
def test_python_is_python(path):
    for block in python_blocks(path):
        compile(block, name_of(path), 'exec')


def test_the_code_of_the_readme_runs(tmp_path):
    """In a process of its own whose Hub serves random weights under the name of timm's repository."""
    classify, convert = python_blocks(ROOT / 'README.md')
    torch.manual_seed(0)
    save_for_hf(timm.create_model('resnet50'), str(tmp_path / 'repo'), safe_serialization=True)
    Image.new('RGB', (80, 60), (200, 120, 40)).save(tmp_path / 'cat.jpg')
    code = classify + AFTER_CLASSIFY + convert + AFTER_CONVERT
    with LoopbackHub() as hub:
        hub.add_repo('timm/resnet50.a1_in1k', {p.name: p.read_bytes() for p in (tmp_path / 'repo').iterdir()})
        done = subprocess.run(
            [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=600,
            env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', **hub.env(tmp_path / 'home')})
    assert done.returncode == 0, done.stderr
