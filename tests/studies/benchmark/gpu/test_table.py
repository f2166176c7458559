"""``benchmark --gpu`` as a whole, dry."""
import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from iebn_zoo.cli import main
from iebn_zoo.studies.benchmark.gpu import table
from tests.support.paths import ROOT

TINY = ['--gpu', '--dry-run', '--models', '--shapes', '2,16,5,5', '--variants', 'iebn', '--executions', 'graph']


def read(path):
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_dry_run(tmp_path, capfd):
    output = tmp_path / 'x.csv'
    assert main(['benchmark', *TINY, '--output', str(output)]) == 0
    out, err = capfd.readouterr()
    rows = read(output)
    assert err == '' and len(rows) == 3 * 2 + 4 and not any(row['error'] for row in rows)
    assert {row['dry_run'] for row in rows} == {'True'} and {row['torch'] for row in rows} == {torch.__version__}
    assert all(float(row['ratio']) > 0 for row in rows if row['variant'] == 'iebn')
    assert 'our operator agrees with the formula in float64: ' in out and '(dry run: ' in out
    assert output.with_suffix('.png').read_bytes().startswith(b'\x89PNG')
    assert main(['benchmark', *TINY, '--output', str(output)]) == 2  # it is there already


def test_a_wrong_operator_is_not_timed(tmp_path, capfd, monkeypatch):
    calls = []

    def run_part(part, seconds, on_record):
        calls.append(part.name)
        return ['the operator is wrong, so nothing is timed: dx is off'] * len(part.jobs)

    monkeypatch.setattr(table, 'run_part', run_part)
    assert main(['benchmark', *TINY, '--output', str(tmp_path / 'x.csv')]) == 1
    assert capfd.readouterr().err == 'error: the operator is wrong, so nothing is timed: dx is off\n'
    assert calls == ['check'] and list(tmp_path.iterdir()) == []


def test_time_is_over(tmp_path, capfd, monkeypatch):
    """The check took it all: the rows say why they are empty."""
    def run_part(part, seconds, on_record):
        on_record(part.jobs[0], dict(compared=7))
        monkeypatch.setattr(table.time, 'monotonic', lambda now=table.time.monotonic: now() + 1000)
        return [None] * len(part.jobs)

    monkeypatch.setattr(table, 'run_part', run_part)
    assert main(['benchmark', *TINY, '--output', str(tmp_path / 'x.csv')]) == 1
    rows = read(tmp_path / 'x.csv')
    assert len(rows) == 6 and {row['error'] for row in rows} == {'not measured: the 230 s of --time-limit were over'}
    assert capfd.readouterr().err.startswith('error: nothing could be measured')


def test_a_killed_run_leaves_a_valid_file(tmp_path):
    output = tmp_path / 'x.csv'
    shapes = [f'2,{c},5,5' for c in range(16, 400)]
    process = subprocess.Popen(
        [sys.executable, '-m', 'iebn_zoo', 'benchmark', *TINY[:2], '--models', '--shapes', *shapes, '--variants',
         'iebn', '--executions', 'graph', '--output', str(output)], cwd=ROOT, stdout=subprocess.DEVNULL,
        env=dict(os.environ, OMP_NUM_THREADS='1'))
    deadline = time.monotonic() + 120
    while not output.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = read(output)
    assert 1 <= len(rows) < 384 * 6 and all(row['time_ms'] and row['dry_run'] == 'True' for row in rows)


@pytest.mark.parametrize('flags, named', [
    pytest.param(['--gpu'], '--gpu measures a CUDA GPU, and torch sees none',
                 marks=pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')),
    (['--gpu', '--device', 'cpu'], '--device is cpu'),
    (['--gpu', '--dry-run', '--device', 'cuda'], '--dry-run is a run on the CPU'),
    (['--gpu', '--dry-run', '--amp'], '--amp has no meaning with --gpu'),
    (['--gpu', '--dry-run', '--keep-memory'], '--keep-memory has no meaning with --gpu'),
    (['--gpu', '--dry-run', '--bench', 'train'], '--bench has no meaning with --gpu'),
    (['--gpu', '--dry-run', '--models', '--shapes'], 'nothing to measure'),
    (['--gpu', '--dry-run', '--output', 'x.txt'], 'ends in .csv'),
    (['--dry-run'], '--dry-run belongs to --gpu'),
    (['--compile-mode', 'max-autotune', '--torchcompile', 'aot_eager'], 'belongs to inductor'),
])
def test_a_mistake_is_a_short_message(capfd, tmp_path, monkeypatch, flags, named):
    monkeypatch.chdir(tmp_path)
    code = main(['benchmark', *flags])
    out, err = capfd.readouterr()
    assert code == 2 and named in err and err.startswith('error: ') and out == ''
    assert len(err.strip().splitlines()) <= 3 and list(tmp_path.iterdir()) == []
