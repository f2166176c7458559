import csv
import json
import re
from dataclasses import replace
from functools import partial

import jinja2
import pytest

from iebn_zoo.hub.card.card import make_card
from iebn_zoo.hub.card.mark import with_repo_id
from iebn_zoo.hub.card.network_facts import network_facts
from iebn_zoo.hub.card.run_facts import read_run
from iebn_zoo.hub.card.text import escape, shown_setting, without_paths
from iebn_zoo.training.run.checkpoint import BEST, LAST, load_checkpoint
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.places import local_name
from iebn_zoo.weights.open import open_network
from tests.support.hub.exported import card_data
from tests.support.hub.runs import NASTY, make_run


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """Jinja writes nothing for a name that is not there; in these tests it raises."""
    strict_template = partial(jinja2.Template, undefined=jinja2.StrictUndefined)
    monkeypatch.setattr(jinja2, 'Template', strict_template)
    monkeypatch.setattr('iebn_zoo.hub.card.card.Template', strict_template)


def facts_of(run, name=LAST, ema=False, dataset_id=None):
    checkpoint = load_checkpoint(run / name)
    model = open_network(checkpoint=run / name, use_ema=ema).model
    network = network_facts(model, *(checkpoint[key] for key in ('arch', 'model_args', 'data_config', 'label_names')))
    return network, read_run(run, checkpoint, network.num_classes, ema, dataset_id)


def card_of(run, name=LAST, ema=False, dataset_id=None, **kwargs):
    return make_card(*facts_of(run, name, ema, dataset_id), **kwargs)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp('run') / 'run')


@pytest.mark.parametrize('name, ema, epoch', [(LAST, False, 2), (LAST, True, 2), (BEST, False, 1)])
def test_numbers_are_those_of_the_log(run, name, ema, epoch):
    rows = list(csv.DictReader((run / 'summary.csv').read_text().splitlines()))
    text = card_of(run, name, ema)
    results = {r.metric_name: r.metric_value for r in card_data(text).eval_results}
    column = 'eval_ema_' if ema else 'eval_'
    assert results == {'top-1': round(float(rows[epoch][f'{column}top1']), 2),
                       'top-5': round(float(rows[epoch][f'{column}top5']), 2)}
    table = [[c.strip() for c in line.strip('|').split('|')] for line in text.splitlines() if ' epoch (' in line]
    assert [row[2].split()[0] for row in table] == [
        f'{float(rows[i][f"eval_{kind}top1"]):.2f}' for i in (2, 1) for kind in ('', 'ema_')]
    marked = [row for row in table if '**exported**' in row[0]]
    assert marked and all((row[1] == 'EMA weights') == ema for row in marked)
    assert '321 evaluation images' in text and 'seed 7' in text and 'n = 1' in text


def test_metadata(run, tmp_path):
    data = card_data(card_of(run, license='mit'))
    assert (data.library_name, data.pipeline_tag, data.license) == ('timm', 'image-classification', 'mit')
    assert 'iebn' in data.tags and 'transformers' not in data.tags and data.base_model is None
    assert data.datasets is None and data.eval_results[0].dataset_split is None
    known = make_run(tmp_path / 'a', dataset='torch/cifar100', pretrained=True, model='hf-hub:me/net@abc', ema=False)
    data = card_data(card_of(known))
    assert data.datasets == ['uoft-cs/cifar100'] and data.base_model == 'me/net'
    assert data.base_model_relation == 'finetune' and data.eval_results[0].dataset_split == 'test'


@pytest.mark.parametrize('args, split, name', [
    (dict(dataset='torch/cifar100', val_split='val'), 'test', 'CIFAR-100'),
    (dict(dataset='torch/cifar100', val_split='train'), 'train', 'CIFAR-100'),
    (dict(dataset='torch/places365', val_split='train-challenge'), 'train-challenge', 'torch/places365'),
    (dict(dataset='torch/image_folder'), None, 'an image folder'),
    (dict(dataset='torch/image_folder', val_split='val'), 'val', 'an image folder'),
    (dict(dataset='hfds/me/animals', val_split='validation'), 'validation', 'hfds/me/animals')], ids=str)
def test_the_split_and_the_data_that_a_card_names(tmp_path, args, split, name):
    data = card_data(card_of(make_run(tmp_path / 'run', ema=False, **args)))
    result = data.eval_results[0]
    assert (result.dataset_split, result.dataset_name) == (split, name)


@pytest.mark.parametrize('kwargs, args, said', [
    ({}, {}, ["start='paper'"]),  # of a version that knew no other
    ({'start': 'paper'}, {}, ["start='paper'"]),
    ({'start': 'bn'}, {}, ["start='bn'"]),
    ({'start': 'bn', 'freeze_gate_weight': True}, {}, ["start='bn'", 'freeze_gate_weight=True']),
    ({'start': 'bn'}, {'pretrained': True}, []), ({'start': 'bn'}, {'initial_checkpoint': 'x.pth'}, []),
], ids=str)
def test_the_start_of_the_gates(tmp_path, kwargs, args, said):
    text = card_of(make_run(tmp_path / 'run', ema=False, model_kwargs=kwargs, **args))
    assert all(part in text for part in said)
    assert ('**Start of the gates:**' in text) == bool(said)
    assert ('the same for every image' in text) == ('freeze_gate_weight' in kwargs)
    assert 'Start of the gates' not in card_of(make_run(tmp_path / 'bn', arch='bn_resnet20_cifar', ema=False))


@pytest.mark.parametrize('classes, known', [(10, True), (4, False)])
def test_a_folder_is_a_known_dataset_only_with_its_classes(tmp_path, classes, known):
    run = make_run(tmp_path / 'run', labels=[f'class {i}' for i in range(classes)], ema=False, data_dir='/d/cifar10/')
    assert (card_data(card_of(run)).datasets == ['uoft-cs/cifar10']) == known
    assert ('CIFAR-10' in card_of(run)) == known


def test_accuracies_have_two_decimals_and_exact_counts(run):
    text = card_of(run)
    assert '| last epoch (2), **exported** | weights | 52.33 (168) | ' in text  # 168 of 321 images
    assert '| best epoch (1) | EMA weights | 41.67 | ' in text  # of no whole number of images
    assert re.search(r'value: 52\.33$', text, flags=re.M)


def test_a_license_that_is_not_known_is_said(run):
    assert '**License of the weights:** unknown, because' in card_of(run)
    assert '**License of the weights:** cc-by-nc-4.0\n' in card_of(run, license='cc-by-nc-4.0')


@pytest.mark.parametrize('args, base, said', [
    (dict(pretrained=True, model='resnet18.a1_in1k'), 'timm/resnet18.a1_in1k', 'Fine-tuned from'),
    (dict(pretrained=True, model='local-dir:/home/somebody/net'), None, 'Started from'),
    (dict(initial_checkpoint='/home/somebody/old.pth.tar'), None, 'Started from'),
])
def test_where_the_weights_came_from(tmp_path, args, base, said):
    text = card_of(make_run(tmp_path / 'run', ema=False, **args))
    assert card_data(text).base_model == base and said in text and 'somebody' not in text


def test_a_setting_of_zero_is_a_setting(tmp_path):
    text = card_of(make_run(tmp_path / 'run', ema=False, seed=0, weight_decay=0., mixup=None))
    assert '| `seed` | `0` |' in text and '| `weight_decay` | `0.0` |' in text and '`mixup`' not in text
    assert 'seed 0:' in text and '--weight-decay 0.0' in text


def test_a_network_without_feature_maps_has_no_snippet_for_them(run):
    network, facts = facts_of(run)
    assert network.feature_shapes == [(1, 16, 32, 32), (1, 16, 32, 32), (1, 32, 16, 16), (1, 64, 8, 8)]
    text = make_card(replace(network, feature_shapes=None), facts)
    assert 'features_only' not in text and text.count('```python') == 3


@pytest.mark.parametrize('name, text', [
    ('args.yaml', '- a\n- b\n'), ('environment.json', '{'), ('summary.csv', 'epoch,train_loss\n0,1\n'),
    ('summary.csv', 'epoch,train_loss,eval_loss,eval_top1,eval_top5,seconds,images_per_second\n0,1,2\n'),
])
def test_a_damaged_log_is_named(tmp_path, name, text):
    run = make_run(tmp_path / 'run', ema=False)
    (run / name).write_text(text)
    with pytest.raises(IEBNZooError, match=f'cannot read .*{name}') as e:
        card_of(run)
    assert len(str(e.value).splitlines()) <= 3


def test_no_place_of_the_machine_is_told(run, tmp_path):
    for text in (card_of(run), card_of(run, repo_id='me/x')):
        assert 'somebody' not in text and str(run.parent) not in text
    assert '--data-dir DATA --output RUN' in card_of(run)
    bare = make_run(tmp_path / 'bare', ema=False)
    (bare / 'args.yaml').unlink()  # then the card shows the words that were typed
    text = card_of(bare)
    assert '--data-dir DATA --output=RUN --lr 0.1 --config recipe.yaml' in text and 'somebody' not in text


def test_names_from_data_cannot_break_the_card(tmp_path):
    run = make_run(tmp_path / 'run', labels=NASTY, ema=False)
    text = card_of(run, dataset_id='me/a: "b" | <i>')
    data = card_data(text)
    assert data.datasets == ['me/a: "b" | <i>'] and data.model_name == 'iebn_resnet20_cifar'
    body = text.split('\n---\n', 1)[1]
    assert '<script>' not in body and '<i>' not in body and 'x y: z' in body
    assert sum(line.startswith('# ') for line in re.sub(r'```.*?```', '', body, flags=re.S).splitlines()) == 1


def test_nothing_from_a_run_is_taken_for_a_template_or_for_markdown(tmp_path):
    nasty = 'a|b`c<i>\n# d [e](f) {{ 12345 * 9 }}{% raw %}'
    run = make_run(tmp_path / 'run', labels=[nasty, 'b'], ema=False, dataset=nasty, seed=nasty, opt=nasty, nasty=nasty)
    environment = json.loads((run / 'environment.json').read_text())
    environment.update(dict.fromkeys(('gpu', 'commit', 'torch', 'num_processes'), nasty),
                       command=['x', '```\n# d', nasty])
    (run / 'environment.json').write_text(json.dumps(environment))
    body = card_of(run).split('\n---\n', 1)[1]
    fences = re.findall(r'^```\w*$', body, flags=re.M)
    assert fences[1::2] == ['```'] * (len(fences) // 2) and fences[::2].count('```python') == 4
    text = re.sub(r'^```\w+$.*?^```$', '', body, flags=re.S | re.M)
    assert '111105' not in text and body.count('12345 * 9') + body.count(r'12345 \* 9') >= 7
    plain = re.sub('`[^`\n]*`', '', text)  # without inline code
    assert '<i>' not in plain and '[e](f)' not in plain and not re.search('^# d', plain, flags=re.M)
    rows = [line for line in text.splitlines() if line.startswith('|')]
    assert {len(re.findall(r'(?<!\\)\|', row)) for row in rows} == {3, 6}  # of the two tables


def test_missing_logs_are_said_not_invented(tmp_path):
    run = make_run(tmp_path / 'run', epochs=9)
    assert 'not finished: 3 of 9 epochs' in card_of(run)
    for name in ('environment.json', 'args.yaml', 'summary.csv'):
        (run / name).unlink()
    text = card_of(run)
    assert all(s in text for s in ('no environment.json', 'no args.yaml', 'nothing was measured'))


def test_with_repo_id(run):
    text = with_repo_id(card_of(run), 'me/net')
    assert text.count("'hf-hub:me/net'") == 3 and "repo_id = 'me/net'" in text and 'OWNER/NAME' not in text


@pytest.mark.parametrize('raw, safe', [
    ('a|b', r'a\|b'), ('<b>', '&lt;b&gt;'), ('x\n# y', r'x \# y'), ('- item', r'\- item'), ('[l](u)', r'\[l\](u)'),
])
def test_escape(raw, safe):
    assert escape(raw) == safe


def test_paths_in_a_command():
    command = ['/a/b/train.py', '--resume', '--output', '/x/y', '--model', 'local-dir:/p/q', '--mean', '-0.5']
    assert ' '.join(without_paths(command)) == 'train.py --resume --output RUN --model local-dir:q --mean -0.5'
    command = ['--config=/home/me/r.yaml', '-c/home/me/r', '-b128', '--out', '/home/me', '--init=/home/me/x',
               '--data-dir', 'rel/dir', '--dataset', 'torch/cifar100', '--model', 'hf-hub:me/x@main',
               '--aa', 'C:\\me\\a']
    assert ' '.join(without_paths(command)) == (
        '--config=r.yaml -cr -b128 --out RUN --init=CHECKPOINT --data-dir DATA --dataset torch/cifar100 '
        '--model hf-hub:me/x@main --aa a')
    assert without_paths(['train', '/h/secret', '--mix-dataset', '/h/p'], '/h/secret') == [
        'train', 'DATA', '--mix-dataset', 'DATA']
    named = ['train', '--mix-dataset-name', 'hfds//h/patients', '--dataset=/h/p', '--dataset', 'torch/svhn']
    assert without_paths(named) == [
        'train', '--mix-dataset-name', 'DATASET', '--dataset=DATASET', '--dataset', 'torch/svhn']
    assert shown_setting(['/h/a', {'x': '/h/b', 'y': 0.5}, None]) == '[a, {x: b, y: 0.5}, None]'
    assert local_name('C:\\me\\r.yaml') == 'r.yaml' and local_name('torch/cifar100') == 'torch/cifar100'


@pytest.mark.parametrize('name, told', [
    ('torch/svhn', True), ('hfds/me/animals', True), ('hfds//home/me/patients', False), ('/home/me/patients', False),
    ('hfds/../patients', False)])
def test_a_dataset_that_is_a_place_is_not_told(tmp_path, name, told):
    text = card_of(make_run(tmp_path / 'run', ema=False, dataset=name))
    assert (name in text.replace('\\', '')) == told and '/home' not in text
