import csv
import re

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from iebn_zoo.hub.card import make_card, with_repo_id
from iebn_zoo.hub.export import _model, export
from iebn_zoo.hub.facts import gather
from iebn_zoo.hub.text import escape, local_name, without_paths
from iebn_zoo.training.state import BEST, LAST, load_checkpoint
from tests.hub.runs import make_run

NASTY = ['a|b', '---', 'x\ny: z', '<script>alert(1)</script>', '"quoted" \'it\'', '`code`', '# head',
         'ünï 文字', '1. one']


def card_of(run, name=LAST, ema=False, **kwargs):
    checkpoint = load_checkpoint(run / name)
    facts = gather(run, checkpoint, _model(checkpoint, run / name, ema), ema, kwargs.pop('dataset_id', None))
    return make_card(facts, **kwargs)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp('run') / 'run')


@pytest.mark.parametrize('name, ema, epoch', [(LAST, False, 2), (LAST, True, 2), (BEST, False, 1)])
def test_numbers_are_those_of_the_log(run, name, ema, epoch):
    rows = list(csv.DictReader((run / 'summary.csv').read_text().splitlines()))
    text = card_of(run, name, ema)
    results = {r.metric_name: r.metric_value for r in ModelCard(text).data.eval_results}
    column = 'eval_ema_' if ema else 'eval_'
    assert results == {'top-1': float(rows[epoch][f'{column}top1']), 'top-5': float(rows[epoch][f'{column}top5'])}
    table = [[c.strip() for c in line.strip('|').split('|')] for line in text.splitlines() if ' epoch (' in line]
    best = 2 if ema else 1
    assert [row[2] for row in table] == [
        f'{float(rows[i][f"eval_{kind}top1"]):.2f}' for i in (2, best) for kind in ('', 'ema_')]
    marked = [row for row in table if '**exported**' in row[0]]
    assert marked and all((row[1] == 'EMA weights') == ema for row in marked)
    assert '321 evaluation images' in text and 'seed 7' in text and 'n = 1' in text


def test_metadata(run, tmp_path):
    data = ModelCard(card_of(run, license='mit')).data
    assert (data.library_name, data.pipeline_tag, data.license) == ('timm', 'image-classification', 'mit')
    assert 'iebn' in data.tags and 'transformers' not in data.tags and data.base_model is None
    known = make_run(tmp_path / 'a', dataset='torch/cifar100', pretrained=True, model='hf-hub:me/net@abc', ema=False)
    data = ModelCard(card_of(known)).data
    assert data.datasets == ['uoft-cs/cifar100'] and data.base_model == 'me/net'
    assert data.base_model_relation == 'finetune'


def test_no_place_of_the_machine_is_told(run, tmp_path):
    for text in (card_of(run), card_of(run, repo_id='me/x')):
        assert 'somebody' not in text and str(run.parent) not in text
    assert '--data-dir DATA --output=RUN --lr 0.1 --config recipe.yaml' in card_of(run)


def test_names_from_data_cannot_break_the_card(tmp_path):
    run = make_run(tmp_path / 'run', labels=NASTY, ema=False)
    text = card_of(run, dataset_id='me/a: "b" | <i>')
    card = ModelCard(text)
    assert card.data.datasets == ['me/a: "b" | <i>'] and card.data.model_name == 'iebn_resnet20_cifar'
    body = text.split('\n---\n', 1)[1]
    assert '<script>' not in body and '<i>' not in body and 'x y: z' in body
    assert sum(line.startswith('# ') for line in re.sub(r'```.*?```', '', body, flags=re.S).splitlines()) == 1


def test_missing_logs_are_said_not_invented(tmp_path):
    run = make_run(tmp_path / 'run', epochs=9)
    assert 'not finished: 3 of 9 epochs' in card_of(run)
    for name in ('environment.json', 'args.yaml', 'summary.csv'):
        (run / name).unlink()
    text = card_of(run)
    assert all(s in text for s in ('no environment.json', 'no args.yaml', 'nothing was measured'))


def test_snippets_run(run, tmp_path, monkeypatch, capsys):
    exported, _ = export(run, tmp_path / 'model')
    text = (exported / 'README.md').read_text()
    snippets = re.findall(r'```python\n(.*?)```', text, flags=re.S)
    assert len(snippets) == 3
    monkeypatch.chdir(tmp_path)
    Image.new('RGB', (50, 40), 'red').save('image.png')
    for snippet in snippets:
        assert snippet.startswith('import iebn_zoo') and 'hf-hub:OWNER/NAME' in snippet
        exec(snippet.replace('hf-hub:OWNER/NAME', f'local-dir:{exported}'), {})
    out = capsys.readouterr().out
    assert 'ant: ' in out and out.rstrip().endswith('torch.Size([1, 64])')
    assert torch.Size([1, 16, 32, 32]).__repr__() in out


def test_with_repo_id(run):
    text = with_repo_id(card_of(run), 'me/net')
    assert text.count("'hf-hub:me/net'") == 3 and 'OWNER/NAME' not in text


@pytest.mark.parametrize('raw, safe', [
    ('a|b', r'a\|b'), ('<b>', '&lt;b&gt;'), ('x\n# y', r'x \# y'), ('- item', r'\- item'), ('[l](u)', r'\[l\](u)'),
])
def test_escape(raw, safe):
    assert escape(raw) == safe


def test_paths_in_a_command():
    command = ['/a/b/train.py', '--resume', '--output', '/x/y', '--model', 'local-dir:/p/q', '--mean', '0.5']
    assert ' '.join(without_paths(command)) == 'train.py --resume --output RUN --model local-dir:q --mean 0.5'
    assert local_name('C:\\me\\r.yaml') == 'r.yaml' and local_name('torch/cifar100') == 'torch/cifar100'
