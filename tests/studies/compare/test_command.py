"""A grid of real runs on 48 images: started, continued, refused, interrupted."""
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from iebn_zoo.cli import main
from iebn_zoo.commands import compare
from iebn_zoo.studies.compare.grid import Cell
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.training.run.records import read_summary, write_summary
from tests.support.training.datasets import interruptible

pytestmark = pytest.mark.usefixtures('warm_python')

TRAIN = ['--epochs', '2', '--batch-size', '16', '-j', '0', '--lr', '0.05', '--device', 'cpu']


def command(data, output, *more, train=TRAIN):
    return ['compare', '--model', 'resnet20_cifar', '--seeds', '0', '--data-dir', str(data), '--output', str(output),
            *more, '--', *train]


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope='module')
def grid(image_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp('grids') / 'grid'
    assert main(command(image_folder, output, '--norms', 'bn', 'iebn', '--jobs', '2')) == 0
    return output


def test_a_grid_leaves_runs_tables_and_a_picture(grid):
    rows = table(grid / 'results.csv')
    assert [(r['model'], r['n'], r['epochs']) for r in rows] == [
        ('bn_resnet20_cifar', '1', '2'), ('iebn_resnet20_cifar', '1', '2')]
    for row in table(grid / 'runs.csv'):
        top1 = [r['eval_top1'] for r in read_summary(grid / row['run'])]
        assert (float(row['last']), float(row['best'])) == pytest.approx((top1[-1], max(top1)), rel=1e-5)
        assert (grid / row['run'] / LAST).is_file() and 'epoch 1' in (grid / f"{row['run']}.log").read_text()
    assert (grid / 'compare.png').read_bytes()[:4] == b'\x89PNG'


def test_finished_runs_are_passed_over(grid, image_folder, capsys):
    before = {p: p.stat().st_mtime_ns for p in grid.rglob('*.pth.tar')}
    assert main(command(image_folder, grid, '--norms', 'iebn', 'bn')) == 0
    said = capsys.readouterr().out
    assert '2 runs, 2 of them complete' in said and '| iebn_resnet20_cifar | 1 |' in said
    assert {p: p.stat().st_mtime_ns for p in grid.rglob('*.pth.tar')} == before


def test_arms_of_one_model_are_runs_of_their_own_and_the_logs_alone_make_the_report(image_folder, tmp_path, capsys):
    output = tmp_path / 'grid'
    arms = ['--arm', 'bn', 'bn_resnet20_cifar', '--arm', 'held', 'iebn_resnet20_cifar', 'start=bn',
            'freeze_gate_weight=True']
    shared = [*TRAIN, '--gate-stats', '--model-kwargs', 'layers=(1,1,1)']
    argv = ['compare', *arms, '--seeds', '0', '1', '--data-dir', str(image_folder), '--output', str(output),
            '--jobs', '2']
    assert main([*argv, '--', *shared]) == 0
    last = load_checkpoint(output / 'held' / 'seed1' / LAST)
    assert last['model_args'].items() >= {'start': 'bn', 'freeze_gate_weight': True}.items()
    assert tuple(last['model_args']['layers']) == (1, 1, 1)
    assert all((v == 0).all() for k, v in last['state_dict'].items() if k.endswith('gate_weight'))
    bn, held = table(output / 'results.csv')
    assert (bn['arm'], held['arm'], held['baseline'], held['n']) == ('bn', 'held', 'bn', '2')
    assert float(held['gate_instance_spread_stem']) < 1e-6 and bn['gate_instance_spread_stem'] == ''
    markdown = (output / 'results.md').read_text()
    assert '| arm | n |' in markdown and 'difference to bn' in markdown

    logs = tmp_path / 'logs'
    for path in output.glob('*/seed*/*'):
        if path.name in ('summary.csv', 'timing.csv', 'args.yaml'):
            (logs / path.relative_to(output).parent).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, logs / path.relative_to(output))
    capsys.readouterr()
    assert main(['compare', '--report', '--output', str(logs)]) == 0
    assert (logs / 'results.md').read_text() == markdown and markdown in capsys.readouterr().out
    assert (logs / 'compare.png').read_bytes()[:4] == b'\x89PNG'
    (logs / 'experiment.yaml').write_text('baseline: held\n')
    assert main(['compare', '--report', '--output', str(logs)]) == 0
    assert 'difference to held' in (logs / 'results.md').read_text()
    (logs / 'experiment.yaml').unlink()
    assert main(['compare', '--report', '--output', str(logs), '--baseline', 'none']) == 2
    assert '--baseline is none, which is no arm' in capsys.readouterr().err
    args = logs / 'bn' / 'seed0' / 'args.yaml'
    args.write_text(args.read_text().replace('lr: 0.05', 'lr: 0.07'))
    assert main(['compare', '--report', '--output', str(logs)]) == 2
    assert 'of two recipes: lr: ' in capsys.readouterr().err
    args.unlink()
    assert main(['compare', '--report', '--output', str(logs)]) == 2
    assert f'no readable args.yaml in {args.parent}' in capsys.readouterr().err
    assert main(['compare', '--report', '--output', str(tmp_path / 'nothing')]) == 2
    assert 'no runs in' in capsys.readouterr().err

    argv[argv.index('start=bn')] = 'start=paper'  # the same name, another network
    assert main([*argv, '--', *shared]) == 2
    assert re.search('holds a run of .* start=bn .*, not of .* start=paper', capsys.readouterr().err)


def test_another_recipe_or_directory_is_refused(grid, image_folder, tmp_path, capsys):
    changed = command(image_folder, grid, '--norms', 'bn', train=[*TRAIN, '--lr', '0.2'])
    assert main(changed) == 2
    assert 'another recipe: lr: 0.05 -> 0.2' in capsys.readouterr().err
    (tmp_path / 'mine.txt').write_text('')
    assert main(command(image_folder, tmp_path, '--norms', 'bn')) == 2
    assert 'is not empty and holds no grid' in capsys.readouterr().err
    assert main(command(tmp_path / 'nowhere', tmp_path / 'new', '--norms', 'bn')) == 2
    assert 'no such directory' in capsys.readouterr().err and not (tmp_path / 'new').exists()


@pytest.mark.parametrize('arm', ['bn', 'iebn'])  # of the call, and one that only the report would have shown
@pytest.mark.parametrize('there, other, said', [
    ('lr: 0.05', 'lr: 0.07', 'lr: 0.07 -> 0.05'), ('seed: 0', 'seed: 3', 'seed: 3 -> 0')])
def test_a_finished_run_that_somebody_else_put_there_is_refused(
        grid, image_folder, tmp_path, capsys, arm, there, other, said):
    output = shutil.copytree(grid, tmp_path / 'grid')
    run = output / f'{arm}_resnet20_cifar' / 'seed0'
    args = (run / 'args.yaml').read_text()
    (run / 'args.yaml').write_text(args.replace(f'{there}\n', f'{other}\n'))
    before = (output / 'results.csv').read_bytes()
    assert main(command(image_folder, output, '--norms', 'bn')) == 2
    assert f'{run} holds a run that is none of this grid: {said}' in capsys.readouterr().err
    assert (output / 'results.csv').read_bytes() == before
    (run / 'args.yaml').write_text(args)
    assert main(command(image_folder, output, '--norms', 'bn')) == 0


def test_other_seeds_of_an_arm_are_of_its_network(grid, image_folder, tmp_path, capsys):
    output = shutil.copytree(grid, tmp_path / 'grid')
    argv = ['compare', '--arm', 'bn_resnet20_cifar', 'iebn_resnet20_cifar', '--seeds', '1', '--data-dir',
            str(image_folder), '--output', str(output), '--', *TRAIN]
    before = (output / 'results.csv').read_bytes()
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert f"{output / 'bn_resnet20_cifar' / 'seed0'} holds a run of bn_resnet20_cifar, not of iebn_" in said
    assert not (output / 'bn_resnet20_cifar' / 'seed1').exists()
    shutil.copytree(output / 'iebn_resnet20_cifar' / 'seed0', output / 'iebn_resnet20_cifar' / 'seed00')
    assert main(command(image_folder, output, '--norms', 'bn')) == 2
    assert 'are of one arm and seed' in capsys.readouterr().err
    assert (output / 'results.csv').read_bytes() == before


def test_arms_of_earlier_calls_and_the_notes_give_the_baseline(grid, image_folder, tmp_path, capsys):
    output = shutil.copytree(grid, tmp_path / 'grid')

    def baselines(*more):
        assert main(command(image_folder, output, '--norms', 'iebn', *more)) == 0
        return {row['model'].split('_')[0]: row['baseline'] for row in table(output / 'results.csv')}

    bn, iebn = 'bn_resnet20_cifar', 'iebn_resnet20_cifar'
    assert baselines() == baselines('--baseline', bn) == {'iebn': bn, 'bn': ''}
    (output / 'experiment.yaml').write_text(f'baseline: {iebn}\n')
    assert baselines() == {'iebn': '', 'bn': iebn}
    assert baselines('--baseline', bn) == {'iebn': bn, 'bn': ''}  # the flag comes before the notes
    (output / 'experiment.yaml').write_text('baseline: se\n')
    capsys.readouterr()
    assert main(command(image_folder, output, '--norms', 'iebn')) == 2
    assert f"baseline in {output / 'experiment.yaml'} is se, which is no arm" in capsys.readouterr().err


def test_notes_may_be_written_before_the_grid(tmp_path, monkeypatch, capsys):
    output, data = tmp_path / 'grid', tmp_path / 'data'
    data.mkdir()
    output.mkdir()
    (output / 'experiment.yaml').write_text('baseline: 3\n')
    monkeypatch.setattr(compare, '_run', lambda *args: None)
    assert main(command(data, output, '--norms', 'bn')) == 2  # and not after the training
    assert 'experiment.yaml: baseline is 3' in capsys.readouterr().err
    (output / 'experiment.yaml').write_text('baseline: bn_resnet20_cifar\n')
    assert main(command(data, output, '--norms', 'bn')) == 0 and (output / 'results.csv').is_file()


def test_a_mistake_in_a_flag_can_be_corrected(image_folder, tmp_path, capsys):
    output, small = tmp_path / 'grid', [*TRAIN, '--epochs', '1', '--model-kwargs', 'layers=(1,1,1)']
    assert main(command(image_folder, output, '--norms', 'bn', train=[*small, '--opt', 'nonsense'])) == 1
    assert 'nonsense not found' in capsys.readouterr().err and (output / compare.RECIPE).is_file()
    assert main(command(image_folder, output, '--norms', 'bn', train=small)) == 0
    assert 'opt: sgd' in (output / compare.RECIPE).read_text()
    assert main(command(image_folder, output, '--norms', 'bn', train=[*small, '--opt', 'momentum'])) == 2
    assert 'another recipe: opt: sgd -> momentum' in capsys.readouterr().err


def test_an_unfinished_run_goes_on_beside_one_that_fails(grid, image_folder, tmp_path, capsys):
    output = tmp_path / 'grid'
    shutil.copytree(grid, output)
    run = output / 'bn_resnet20_cifar' / 'seed0'
    whole = (run / 'summary.csv').read_text()
    first = run / 'checkpoint-0.pth.tar'
    for path in [p for p in run.glob('*.pth.tar') if p != first]:
        path.unlink()
    first.rename(run / LAST)
    write_summary(run, read_summary(run)[:1])
    (output / 'se_resnet20_cifar').mkdir()
    (output / 'se_resnet20_cifar' / 'seed0').write_text('')  # a file where the run's directory should be
    code = main(command(image_folder, output, '--norms', 'se', 'bn', '--jobs', '2', '--test'))
    said = capsys.readouterr()
    assert code == 1 and 'failed: se_resnet20_cifar seed 0: error: ' in said.err and 'is a file' in said.err
    assert (run / 'summary.csv').read_text() == whole
    rows = {r['model']: r for r in table(output / 'results.csv')}
    assert list(rows) == ['se_resnet20_cifar', 'bn_resnet20_cifar', 'iebn_resnet20_cifar']
    assert (rows['se_resnet20_cifar']['n'], rows['se_resnet20_cifar']['last_mean']) == ('0', '')
    assert rows['bn_resnet20_cifar']['n'] == '1' and rows['iebn_resnet20_cifar']['n'] == '1'
    # without held-out images the test split is what training evaluated on
    bn = rows['bn_resnet20_cifar']
    assert (bn['test_last_mean'], bn['test_best_mean']) == (bn['last_mean'], bn['best_mean'])
    assert rows['iebn_resnet20_cifar']['test_last_mean'] == ''


def test_a_damaged_log_stops_no_grid_and_is_written_anew(grid, image_folder, tmp_path, capsys):
    output = tmp_path / 'grid'
    shutil.copytree(grid, output)
    logs = [output / model / 'seed0' / 'summary.csv' for model in ('bn_resnet20_cifar', 'iebn_resnet20_cifar')]
    whole = logs[0].read_text()
    for path in logs:
        path.write_text(whole[:len(whole) // 2])
    assert main(command(image_folder, output, '--norms', 'bn')) == 0
    said = capsys.readouterr()
    assert said.err.count('counts as unfinished') == 2 and str(logs[1]) in said.err
    assert logs[0].read_text() == whole
    rows = {r['model']: r for r in table(output / 'results.csv')}
    assert rows['bn_resnet20_cifar']['n'] == '1' and rows['iebn_resnet20_cifar']['n'] == '0'


def test_data_is_downloaded_once_before_the_runs(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(compare, 'open_images',
                        lambda name, root, train, split, download: calls.append((name, train, split, download)))
    monkeypatch.setattr(compare, '_run', lambda *args: calls.append('run'))
    downloading = [*TRAIN, '--dataset', 'torch/cifar10', '--dataset-download']
    assert main(command(tmp_path / 'data', tmp_path / 'grid', '--norms', 'bn', train=downloading)) == 0
    assert calls == [('torch/cifar10', True, None, True), ('torch/cifar10', False, None, True), 'run']


@pytest.mark.parametrize('more, test, opened', [
    (['--train-split', 'training', '--val-split', 'validation'], [], [(True, 'training'), (False, 'validation')]),
    (['--holdout', '0.1'], [], [(True, None)]), (['--holdout', '0.1'], ['--test'], [(True, None), (False, None)])],
    ids=str)
def test_the_splits_that_the_runs_read_are_downloaded(tmp_path, monkeypatch, more, test, opened):
    calls = []
    monkeypatch.setattr(compare, 'open_images', lambda name, root, train, split, download: calls.append((train, split)))
    monkeypatch.setattr(compare, '_run', lambda *args: None)
    downloading = [*TRAIN, '--dataset', 'torch/places365', '--dataset-download', *more]
    assert main(command(tmp_path / 'data', tmp_path / 'grid', '--norms', 'bn', *test, train=downloading)) == 0
    assert calls == opened


def test_ctrl_c_stops_the_runs_and_says_how_to_go_on(image_folder, tmp_path):
    output = tmp_path / 'grid'
    many = [*TRAIN, '--epochs', '500']
    process = subprocess.Popen(
        [sys.executable, '-m', 'iebn_zoo', *command(image_folder, output, '--norms', 'bn', 'iebn', train=many)],
        env=dict(os.environ, OMP_NUM_THREADS='1'), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=interruptible)
    run = output / 'bn_resnet20_cifar' / 'seed0'
    deadline = time.time() + 300
    while not (run / 'summary.csv').exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and 'Traceback' not in err, err
    assert 'the same command continues' in err and 'bn_resnet20_cifar seed 0 ...' in out and '%|' not in err
    log = (output / 'bn_resnet20_cifar' / 'seed0.log').read_text()
    assert (run / LAST).is_file() and 'stopped by SIGINT; continue' in log
    assert not (output / 'iebn_resnet20_cifar').exists()
    time.sleep(0.5)
    done = len(read_summary(run))
    time.sleep(1)
    assert len(read_summary(run)) == done  # nobody trains on


def test_a_deadline_stops_all_runs_and_the_same_command_goes_on(grid, image_folder, tmp_path, capsys):
    output = tmp_path / 'grid'
    argv = command(image_folder, output, '--norms', 'bn', 'iebn', '--stop-after', '1e-6')
    assert main(argv) == 75
    said = capsys.readouterr().out
    assert 'stopped after 1e-06 minutes with 2 runs unfinished' in said and not list(output.glob('*/seed*'))
    argv[argv.index('1e-6')] = '1000'
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert re.search(r'iebn_resnet20_cifar seed 0: 2 epochs, top-1 [0-9.]+, \d+ s, \d+ images/s\n', said)
    assert re.search(r'\d+ images/s of all runs together, 1 at once', said)
    for row in table(grid / 'runs.csv'):
        assert read_summary(output / row['run']) == read_summary(grid / row['run'])


def test_a_run_that_a_deadline_has_stopped_has_not_failed(image_folder, tmp_path, monkeypatch, capsys):
    command_of = [sys.executable, '-c', 'raise SystemExit(75)']  # as train ends at its --stop-after
    monkeypatch.setattr(Cell, 'train_command', lambda *args: command_of)
    assert main(command(image_folder, tmp_path / 'grid', '--norms', 'bn', '--stop-after', '1000')) == 75
    said = capsys.readouterr()
    assert 'bn_resnet20_cifar seed 0: 0 epochs' in said.out and ', stopped' in said.out and 'failed' not in said.err
