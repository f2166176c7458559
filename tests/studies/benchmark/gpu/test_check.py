"""``make gpu``: the order of its parts, their limits, and that the GPU tests can run at all."""
import os
import re
import subprocess
import sys

import pytest
import torch

from iebn_zoo.cli import run
from iebn_zoo.studies.benchmark.gpu import check
from iebn_zoo.studies.benchmark.gpu.images import write_random_images
from iebn_zoo.studies.benchmark.process import Outcome
from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures('warm_python')


@pytest.fixture
def stubs(monkeypatch):
    """Parts that do nothing; the value says how each ends."""
    ends, calls = {}, []
    for name in check.LIMITS:
        def stub(args, seconds, name=name):
            calls.append((name, seconds))
            return Outcome(1.0, ends.get(name))
        monkeypatch.setattr(check, f'_{name}', stub)
    return ends, calls


def summary(directory):
    lines = (directory / 'summary.txt').read_text().splitlines()
    return [line.split()[0] + ' ' + line.split(' s  ')[1] for line in lines]


def test_a_part_that_fails_does_not_stop_the_others(tmp_path, stubs, capsys):
    ends, calls = stubs
    ends.update(tests='exit code 1', table='not done when its 175 s were over')
    assert run(check.main, ['--dry-run', '--output', str(tmp_path)]) == 1
    assert [name for name, _ in calls] == ['operator', 'tests', 'table', 'epoch']
    assert all(0 < seconds < 4 * check.LIMITS[name] for name, seconds in calls)
    assert summary(tmp_path) == [
        'operator ok', 'tests exit code 1', 'table not done when its 175 s were over', 'epoch ok']
    assert (tmp_path / 'environment.json').exists()


def test_a_wrong_operator_stops_everything(tmp_path, stubs):
    ends, calls = stubs
    ends['operator'] = 'the operator is wrong'
    assert run(check.main, ['--dry-run', '--output', str(tmp_path)]) == 1
    assert [name for name, _ in calls] == ['operator']
    assert summary(tmp_path)[1:] == [
        f'{name} not run: the operator is not known to be right' for name in list(check.LIMITS)[1:]]


def test_all_limits_together_are_at_most_eight_minutes(tmp_path, stubs, monkeypatch):
    assert sum(check.LIMITS.values()) <= check.TOTAL_S < 480
    _, calls = stubs
    now = iter([0, 0, 400, 460, 469, 480])
    monkeypatch.setattr(check, 'DRY_RUN_FACTOR', 1)
    monkeypatch.setattr(check.time, 'monotonic', lambda: next(now))
    assert run(check.main, ['--dry-run', '--output', str(tmp_path)]) == 1
    assert calls == [('operator', 65), ('tests', 65), ('table', 5)]
    assert summary(tmp_path)[-1] == 'epoch not run: no time was left'


def test_chosen_parts(tmp_path, stubs):
    assert run(check.main, ['--dry-run', '--output', str(tmp_path), '--parts', 'epoch', 'operator']) == 0
    assert [name for name, _ in stubs[1]] == ['operator', 'epoch']


def test_mistakes(tmp_path, capsys, stubs):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'x').touch()
    for flags, named in ((['--output', str(tmp_path / 'full')], 'not empty'), (['--data-dir', 'nowhere'], 'nowhere')):
        assert run(check.main, ['--dry-run', *flags]) == 2
        assert named in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert run(check.main, ['--output', str(tmp_path / 'new')]) == 2
        assert 'torch sees none' in capsys.readouterr().err and not (tmp_path / 'new').exists()


@pytest.mark.parametrize('cores, processes', [(4, 6), (16, 18)])
def test_the_operator_is_checked_in_every_dtype_and_layout(cores, processes):
    jobs = check.operator_jobs(False, cores)
    assert len(jobs) == processes
    pairs = [(text, shape) for job in jobs for text in job.settings for shape in job.shapes]
    assert len(pairs) == len(set(pairs)) == 6 * 6


def test_operator(tmp_path):
    args = check.build_parser().parse_args(['--dry-run', '--output', str(tmp_path)])
    outcome = check._operator(args, 120)
    assert outcome.error is None
    assert 'agrees with the formula in float64: ' in (tmp_path / 'operator.txt').read_text()


def test_random_images(tmp_path):
    directory = write_random_images(tmp_path / 'd', 12, 6, classes=3)
    for split, count in (('train', 12), ('val', 6)):
        names = subprocess.run(['tar', 'tf', directory / f'{split}.tar'], capture_output=True, text=True, check=True)
        assert len(names.stdout.split()) == count and {n.split('/')[0] for n in names.stdout.split()} == {
            'class000', 'class001', 'class002'}


def test_no_file_with_tests_that_need_a_gpu_is_left_out():
    run_there = tuple(name.partition('::')[0] for name in check.TESTS)
    needing = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'tests').rglob('test_*.py')
               if re.search(r'skipif\(not (CUDA|torch\.cuda)|require_gpu\(\)', path.read_text())}
    assert len(needing) > 8 and [path for path in sorted(needing) if not path.startswith(run_there)] == []


def test_the_chosen_tests_exist():
    chosen = [name.split('::') for name in check.TESTS if '::' in name]
    assert chosen and [test for path, test in chosen if f'\ndef {test}(' not in (ROOT / path).read_text()] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason='they run themselves')
def test_the_gpu_tests_run_dry():
    """A test that has never run has mistakes of its own: on the CPU, those that are no matter of the device show."""
    chosen = '(nchw and float32 and not Act2d) or network and not autocast or ddp or current_one or another_stream'
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/gpu', '-k', chosen], cwd=ROOT,
        text=True, capture_output=True, timeout=300, env={**os.environ, check.DRY_RUN: '1', 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stdout[-3000:]
    assert ' passed' in done.stdout and 'skipped' not in done.stdout
