"""Which runs are found, and what is refused rather than counted wrongly."""
import json
import shutil

import pytest

from iebn_zoo.studies.compare.notes import read_notes
from iebn_zoo.studies.evidence.experiments import find_experiments
from iebn_zoo.studies.evidence.results import COLUMNS, main, result_rows
from iebn_zoo.training.run.records import write_summary
from iebn_zoo.util.csv_files import read_csv
from iebn_zoo.util.errors import UsageError
from tests.support.plots.experiments import grid, write_logs, write_notes
from tests.support.plots.rows import rows


def test_runs_in_arms_and_seeds_are_found_by_themselves(tmp_path):
    grid(tmp_path / 'zoo')
    write_logs(tmp_path / 'other' / 'deep', 'bn', 4, [1.0])
    zoo, other = sorted(find_experiments([tmp_path]), key=lambda e: e.name, reverse=True)
    assert (zoo.name, zoo.arms(), len(zoo.runs)) == ('zoo', ['bn', 'iebn', 'se'], 9)
    assert (other.name, other.runs[0].seed, other.runs[0].epochs) == ('other/deep', 4, 1)
    rows_of = zoo.arm_rows()
    assert rows_of['iebn']['last_mean'] == 55.0 and rows_of['iebn']['last_diff'] == 4.0
    assert rows_of['bn']['baseline'] is None and rows_of['se']['baseline'] == 'bn'


def test_a_row_says_what_the_logs_say_and_nothing_else(tmp_path):
    run = write_logs(tmp_path / 'zoo', 'iebn', 2, [10.0, 30.0, 20.0], config='/home/me/cifar_30ep.yaml', amp=True,
                     model_kwargs={'start': 'bn'})
    (run / 'environment.json').write_text(json.dumps(
        dict(cpu='AMD EPYC', cpu_count=2, threads=1, gpu=None, torch='2.15.0', timm='1.0.31')))
    bare = tmp_path / 'zoo' / 'bare'
    bare.mkdir()
    write_summary(bare, rows([5.0]))
    full, empty = sorted(result_rows(find_experiments([tmp_path]), tmp_path), key=lambda r: r['arm'], reverse=True)
    assert full == dict(
        experiment='zoo', arm='iebn', network='iebn_resnet20_cifar', model_kwargs='start=bn', recipe='cifar_30ep.yaml',
        data='digits', epochs=3, complete=1, seed=2, precision='bfloat16', weights='model', last_top1=20.0,
        best_top1=30.0, best_epoch=1, train_loss=1.0, images_per_second=100.0, hours=0.15,
        machine='AMD EPYC, 2 cores, 1 threads', torch='2.15.0', timm='1.0.31', log='zoo/iebn/seed2/summary.csv')
    assert {k for k, v in empty.items() if v is not None} == {
        'experiment', 'arm', 'epochs', 'weights', 'last_top1', 'best_top1', 'best_epoch', 'train_loss', 'log'}


def test_notes_say_what_a_log_does_not(tmp_path):
    arm = tmp_path / 'old' / 'first' / 'seed0'
    arm.mkdir(parents=True)
    write_summary(arm, [dict(row, seconds=1800.0, images_per_second=50.0) for row in rows([40.0, 60.0])])
    write_notes(tmp_path / 'old', network='resnet20', data='digits', epochs=2, torch='2.15.0',
                arms=dict(first=dict(label='The first', network='iebn_resnet20_cifar', model_kwargs=dict(start='bn'))))
    (row,) = result_rows(find_experiments([tmp_path]), tmp_path)
    assert (row['network'], row['model_kwargs'], row['data'], row['torch'], row['timm']) == (
        'iebn_resnet20_cifar', 'start=bn', 'digits', '2.15.0', None)
    # runs of the first weeks have their times in summary.csv
    assert (row['complete'], row['hours'], row['images_per_second']) == (1, 1.0, 50.0)


def test_the_command_writes_the_table(tmp_path, capsys):
    grid(tmp_path / 'logs' / 'zoo')
    assert main([str(tmp_path / 'logs')]) == 0
    path = tmp_path / 'logs' / 'results.csv'
    assert capsys.readouterr().out.strip() == str(path)
    table = read_csv(path, {}, rest=str)
    assert len(table) == 9 and path.read_text().splitlines()[0] == ','.join(COLUMNS)
    with pytest.raises(UsageError, match='ends in .csv'):
        main([str(tmp_path / 'logs'), '--output', str(tmp_path / 'a.txt')])


def test_a_card_that_repeats_a_log_adds_no_run(tmp_path):
    grid(tmp_path / 'logs' / 'zoo')
    card = tmp_path / 'cards' / 'mine'
    shutil.copytree(tmp_path / 'logs' / 'zoo' / 'iebn' / 'seed1', card)
    other = tmp_path / 'cards' / 'folded'
    other.mkdir()
    write_summary(other, rows([33.0]))
    (other / 'summary.csv').rename(other / 'source_summary.csv')
    found = find_experiments([tmp_path / 'logs', tmp_path / 'cards'])
    assert [(e.name, e.arms()) for e in found] == [('zoo', ['bn', 'iebn', 'se']), ('cards', ['folded'])]


def test_an_unfinished_run_is_listed_and_not_counted(tmp_path):
    grid(tmp_path / 'zoo')
    write_logs(tmp_path / 'zoo', 'iebn', 3, [90.0], epochs=2)
    (zoo,) = find_experiments([tmp_path])
    assert [run.row()['complete'] for run in zoo.runs if run.cell.arm.name == 'iebn'] == [1, 1, 1, 0]
    assert zoo.arm_rows()['iebn']['n'] == 3


def damaged_log(root):
    (root / 'bn' / 'seed0' / 'summary.csv').write_text('epoch,eval_top1\n0,many\n')
    return 'cannot be read'


def gap(root):
    write_summary(root / 'bn' / 'seed0', [dict(rows([1.0])[0], epoch=1)])
    return 'no row of epoch 0'


def copied(root):
    shutil.copy(root / 'bn' / 'seed0' / 'summary.csv', root / 'bn' / 'seed1' / 'summary.csv')
    return 'are the same log'


def twice(root):
    shutil.copytree(root / 'bn' / 'seed0', root / 'bn' / 'seed00')
    return 'of one arm and seed'


def other_seed(root):
    (root / 'bn' / 'seed0').rename(root / 'bn' / 'seed7')
    return 'says seed 0'


def other_recipe(root):
    args = root / 'bn' / 'seed0' / 'args.yaml'
    args.write_text(args.read_text() + 'lr: 0.7\n')
    return 'of two recipes: lr'


def other_network(root):
    write_notes(root, arms=dict(bn=dict(network='resnet18')))
    return 'args.yaml says bn_resnet20_cifar'


def no_logs_of_an_arm(root):
    write_notes(root, arms=dict(eca={}))
    return 'the arm eca, which has no'


def no_baseline(root):
    write_notes(root, baseline='eca')
    return "experiment.yaml: baseline is 'eca', expected one of bn, iebn, se"


def no_arm(root):
    (root / 'bn' / 'seed0').rename(root.parent / 'seed0')
    return 'lies in no arm'


def damaged_environment(root):
    (root / 'bn' / 'seed0' / 'environment.json').write_text('{"cpu": 1}')
    return 'environment.json is damaged'


@pytest.mark.parametrize('damage', [damaged_log, gap, copied, twice, other_seed, other_recipe, other_network,
                                    no_logs_of_an_arm, no_baseline, no_arm, damaged_environment])
def test_what_cannot_be_right_is_refused(tmp_path, damage):
    words = damage(grid(tmp_path / 'zoo'))
    with pytest.raises(UsageError, match=words) as e:
        experiments = find_experiments([tmp_path])
        result_rows(experiments, tmp_path)
        for experiment in experiments:
            experiment.arm_rows()
    assert len(str(e.value).splitlines()) <= 3


def test_no_directory_and_no_runs(tmp_path):
    for place, words in ((tmp_path / 'nowhere', 'no such directory'), (tmp_path, 'no summary.csv below')):
        with pytest.raises(UsageError, match=words):
            find_experiments([place])


@pytest.mark.parametrize('text, words', [
    ('epochs: 3\nepochs: 4', 'epochs is given twice (line 2)'),
    ('- a', 'expected a mapping'), ('netwrok: a', "unknown key 'netwrok'"),
    ('torch: 2.1', 'torch is 2.1, expected a text'), ('epochs: many', 'expected a number of epochs'),
    ('epochs: true', 'expected a number'), ('arms: [bn]', 'expected a mapping'),
    ('arms: {bn: {norm: ln}}', "norm is 'ln'"), ('arms: {bn: 3}', 'expected a mapping'), ('{', 'cannot be read'),
    ('baseline: se\narms: {bn: {}}', "baseline is 'se'"), ('arms: {bn: {label: "a|b"}}', 'without |'),
])
def test_notes_are_checked(tmp_path, text, words):
    (tmp_path / 'experiment.yaml').write_text(text)
    with pytest.raises(UsageError) as e:
        read_notes(tmp_path)
    assert words in str(e.value) and 'experiment.yaml' in str(e.value) and len(str(e.value).splitlines()) <= 3
