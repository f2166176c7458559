"""The code of a card, as a reader of the Hub copies it: it fits the page and runs against a Hub server."""
import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from iebn_zoo.hub.card.format_facts import FormatFacts
from iebn_zoo.hub.card.mark import with_repo_id
from iebn_zoo.hub.package.export import export
from iebn_zoo.util.resources import install_command, install_line
from tests.hub.card.test_card import card_of
from tests.support.hub.loopback import LoopbackHub
from tests.support.hub.runs import make_run
from tests.support.paths import ROOT

REPO_ID = 'me/iebn_resnet20_cifar.cifar100_30ep'
UNKNOWN = re.compile(r'Without it timm says `(.*?)`, and transformers says "(.*?)" and advises')

REFUSED = """
import timm
from transformers import AutoModelForImageClassification as Auto
for load in (lambda: timm.create_model('hf-hub:me/rgb', pretrained=True), lambda: Auto.from_pretrained('me/rgb')):
    try:
        print(load())
    except Exception as e:
        print(e)
"""


def blocks(card, language):
    return re.findall(rf'```{language}\n(.*?)```', card, flags=re.S)


@pytest.fixture(scope='module')
def exports(tmp_path_factory):
    """An IEBN network, one on grey images, and one of timm's own, as they stand on the Hub."""
    place = tmp_path_factory.mktemp('exports')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('iebn_zoo.hub.package.export.reload_fresh', lambda made: 0.)  # the snippets load it
        small = dict(layers=[1, 1, 1, 1], channels=[8, 8, 16, 16])
        return {
            'me/rgb': export(make_run(place / 'a', ema=False), place / 'rgb')[0],
            'me/grey': export(make_run(place / 'b', ema=False, in_chans=1), place / 'grey')[0],
            'me/timm': export(make_run(place / 'c', 'resnet18', ema=False, size=64, model_kwargs=small),
                              place / 'timm')[0]}


def outputs(exports, codes, tmp_path):
    """Run pieces of code in one process, each in a namespace of its own; return what each printed."""
    Image.new('RGB', (50, 40), 'red').save(tmp_path / 'image.png')
    program = ('for code in ' + repr(codes) + ':\n'
               '    print("---", flush=True)\n    exec(compile(code, "snippet", "exec"), {})\n')
    clean = {k: v for k, v in os.environ.items() if not k.startswith(('HF_', 'HUGGING'))}
    with LoopbackHub() as hub:
        for name, directory in exports.items():
            hub.add_repo(name, {p.name: p.read_bytes() for p in directory.iterdir()})
        done = subprocess.run(
            [sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True, timeout=600,
            env={**clean, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', **hub.env(tmp_path / 'home')})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split('---\n')[1:]


def test_they_run(exports, tmp_path):
    """First those of timm's network, without this package; then what comes of a missing import; then those of ours."""
    pytest.importorskip('transformers')
    cards = {name: with_repo_id((path / 'README.md').read_text(), name) for name, path in exports.items()}
    snippets = {name: blocks(card, 'python') for name, card in cards.items()}
    said = UNKNOWN.search(cards['me/rgb'])
    assert said is not None and not UNKNOWN.search(cards['me/timm'])
    assert 'iebn_zoo' not in ''.join(snippets['me/timm']) and blocks(cards['me/timm'], 'sh')[0] == 'pip install timm\n'
    hide, show = 'import sys\nsys.modules["iebn_zoo"] = None\n', 'import sys\ndel sys.modules["iebn_zoo"]\n'
    out = outputs(exports, [hide, *snippets['me/timm'], show, REFUSED, *snippets['me/rgb'], *snippets['me/grey']],
                  tmp_path)
    _, classes, _, embedding, label = out[:5]
    assert label.strip() == classes.split(':')[0] and embedding.startswith('torch.Size([1, ')
    refused = out[6].splitlines()
    assert refused[0] == said[1] and refused[1].startswith(said[2]), refused
    for classes, shapes, embedding, label in (out[7:11], out[11:]):
        assert len(classes.splitlines()) == 4 and 'ant: ' in classes
        assert 'torch.Size([1, 16, 32, 32])' in shapes and embedding == 'torch.Size([1, 64])\n'
        assert label.strip() == classes.split(':')[0]  # transformers finds the class that timm finds


def test_no_line_of_code_is_wider_than_the_page(exports, tmp_path):
    long = make_run(tmp_path / 'run', ema=False, config='imagenet_resnet50_modern', opt_args={'nesterov': False})
    formats = [FormatFacts(name, name, (f'model.{name}',), 'a runtime 1.0', 1e-6, 10.)
               for name in ('onnx', 'torchscript', 'openvino')]
    for card in [card_of(long, formats=formats), *((path / 'README.md').read_text() for path in exports.values())]:
        card = with_repo_id(card, REPO_ID)
        assert card.count(REPO_ID) >= 5
        for code in re.findall(r'```\w+\n(.*?)```', card, flags=re.S):
            assert all(len(line) <= 80 for line in code.splitlines()), max(code.splitlines(), key=len)


def test_the_install_line_stands_in_one_place(exports):
    assert blocks((exports['me/rgb'] / 'README.md').read_text(), 'sh')[0] == install_line() + '\n'
    assert f'\n    {install_command()} ' in (ROOT / 'README.md').read_text(encoding='utf-8')
    assert install_command('onnx') == install_command().replace('.', "'.[onnx]'")
