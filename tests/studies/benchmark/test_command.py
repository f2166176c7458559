"""The command as a whole: what it prints, writes and refuses."""
import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from iebn_zoo.layers import iebn
from tests.studies.benchmark.test_oracle import wrong_gradient
from tests.support.allocator import default_allocator, needs_glibc
from tests.support.paths import ROOT
from tests.support.training.datasets import interruptible

pytestmark = pytest.mark.usefixtures('warm_python')

ENV = dict(os.environ, OMP_NUM_THREADS='1')
TINY = ['--models', 'resnet20_cifar', '-b', '2', '--img-size', '8', '--shapes', '4,5,3,3', '--rounds', '2']


def benchmark(capfd, *argv):
    from iebn_zoo.cli import main
    code = main(['benchmark', *map(str, argv)])
    out, err = capfd.readouterr()
    # torch's profiler, which measures memory, speaks now and then
    return code, out, ''.join(line for line in err.splitlines(keepends=True) if not line.startswith('USDT:'))


def read(path):
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_layer_and_model(capfd, tmp_path):
    output = tmp_path / 'x.csv'
    code, out, err = benchmark(capfd, *TINY, '--settings', 'bfloat16+channels_last', '--output', output)
    assert code == 0 and err == ''
    rows = read(output)
    assert len(rows) == 2 * (7 + 5) and not any(row['error'] for row in rows)
    for row in rows:
        assert float(row['time_ms']) > 0 and float(row['peak_mb']) > 0 and row['rounds'] == '2'
        if row['variant'] == row['baseline']:
            assert float(row['ratio']) == float(row['memory_ratio']) == 1
        assert row['torch'] == torch.__version__ and row['cpu'] and row['device'] == 'cpu' and row['threads'] == '1'
    assert {row['input_shape'] for row in rows} == {'4x5x3x3', '2x3x8x8'}
    naive, ours = (next(r for r in rows if r['kind'] == 'model' and r['variant'] == v) for v in ('naive', 'iebn'))
    assert float(naive['peak_mb']) > float(ours['peak_mb'])
    lines = out.splitlines()
    assert lines[0].startswith('our operator agrees with the formula in float64')
    assert sum(line.startswith(('layer ', 'model ')) for line in lines) == len(rows) + 2 * (5 + 4)  # and summary
    assert (tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG')
    assert benchmark(capfd, *TINY, '--output', output)[0] == 2  # it is there already


@needs_glibc
def test_kept_memory_stands_in_the_rows(tmp_path):
    """In processes of its own: a C library that has been told so keeps to it."""
    def run(output, *flags, **variables):
        return subprocess.run(
            [sys.executable, '-m', 'iebn_zoo', 'benchmark', '--models', '--shapes', '4,5,3,3', '--rounds', '2',
             '--variants', 'iebn', '--settings', 'float32', '--bench', 'infer', '--output', str(output), *flags],
            cwd=ROOT, env={**default_allocator(), 'OMP_NUM_THREADS': '1', **variables}, capture_output=True, text=True)

    for flags, kept in (([], ''), (['--keep-memory'], '1')):
        output = tmp_path / f'kept{kept}.csv'
        done = run(output, *flags)
        assert done.returncode == 0, done.stderr
        assert {row['kept_memory'] for row in read(output)} == {kept}
    done = run(tmp_path / 'x.csv', '--keep-memory', MALLOC_TRIM_THRESHOLD_='131072')
    assert done.returncode == 2 and done.stderr.startswith('error: --keep-memory has no effect here: device cpu.')
    assert 'none of MALLOC_TRIM_THRESHOLD_, ' in done.stderr and not (tmp_path / 'x.csv').exists()


def test_a_wrong_operator_is_not_timed(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(iebn, 'ie_batch_norm', wrong_gradient('d_gate_bias', 1.01))
    code, out, err = benchmark(capfd, *TINY, '--output', tmp_path / 'x.csv')
    assert code == 1 and out == '' and list(tmp_path.iterdir()) == []
    assert err.startswith('error: the operator is wrong, so nothing is timed: IEBatchNorm2d, float32, train, input ')
    assert 'd_gate_bias is off by 1.0e-02' in err and 'tolerance 1.0e-05' in err and len(err.splitlines()) <= 3


def test_failed_variants_have_an_error_and_the_others_go_on(capfd, tmp_path):
    # one image of 8 px leaves one value per channel in the last stage: BatchNorm refuses it in training only
    output = tmp_path / 'x.csv'
    code, out, err = benchmark(capfd, '--models', 'resnet18', '-b', '1', '--img-size', '8', '--shapes', '--rounds', '2',
                               '--settings', 'float32', '--variants', 'eca', '--output', output)
    assert code == 0
    for row in read(output):
        assert ('more than 1 value per channel' in row['error']) == (row['mode'] == 'train')
        assert (row['time_ms'] == '') == (row['mode'] == 'train')
    assert 'failed: ValueError' in out and '2 of 4 rows failed' in out


def test_everything_failed(capfd, tmp_path):
    code, _, err = benchmark(capfd, '--models', 'resnet18', '-b', '1', '--img-size', '8', '--shapes', '--rounds', '2',
                             '--bench', 'train', '--variants', 'bn', '--settings', 'float32',
                             '--output', tmp_path / 'x.csv')
    assert code == 1 and err.startswith('error: nothing could be measured')
    assert len(read(tmp_path / 'x.csv')) == 1


@pytest.mark.parametrize('flags, named', [
    (['--models', 'resnet51'], "unknown model 'resnet51'"),
    (['--models', 'iebn_resnet20_cifar'], 'such as resnet20_cifar'),
    (['--models', 'vgg11'], 'Expected a base name'),
    (['--shapes', '1,2,3'], "shape '1,2,3' is not B,C,H,W"),
    (['--shapes', '1,2,1,1'], 'one value per channel'),
    (['--models', '--shapes'], 'nothing to measure'),
    (['--rounds', '1'], '--rounds is 1, expected at least 2'),
    (['--threads', '0'], '--threads is 0'),
    (['-b', '0'], '--batch-size is 0'),
    (['--img-size', '0'], '--img-size is 0'),
    (['--device', 'tpu'], "unknown --device 'tpu'"),
    (['--settings', 'float8'], "setting 'float8' is not one"),
    (['--settings', 'float32', '--amp'], '--settings was given together with'),
    (['--torchcompile', 'nothing'], "backend 'nothing' does not work here"),
    (['--output', 'x.txt'], 'ends in .csv'),
    (['--output', 'nowhere/x.csv'], 'nowhere/x.csv would lie in nowhere, which is no directory'),
    pytest.param(['--device', 'cuda'], '--device cuda is not there',
                 marks=pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')),
])
def test_a_mistake_is_a_short_message(capfd, tmp_path, monkeypatch, flags, named):
    monkeypatch.chdir(tmp_path)
    code, out, err = benchmark(capfd, *flags)
    assert code == 2 and named in err and err.startswith('error: ') and out == ''
    assert len(err.strip().splitlines()) <= 3 and list(tmp_path.iterdir()) == []


def test_no_cpp_compiler(tmp_path):
    done = subprocess.run([sys.executable, ROOT / 'scripts' / 'benchmark.py', *TINY, '--torchcompile'], text=True,
                          capture_output=True, cwd=tmp_path, timeout=300, env=dict(ENV, CXX=str(tmp_path / 'no-g++')))
    assert done.returncode == 2 and done.stdout == '' and list(tmp_path.iterdir()) == []
    assert 'C++ compiler' in done.stderr and 'Traceback' not in done.stderr


def test_interrupt_leaves_what_was_measured(tmp_path):
    output = tmp_path / 'x.csv'
    shapes = [f'4,{c},3,3' for c in range(2, 400)]
    process = subprocess.Popen(
        [sys.executable, '-m', 'iebn_zoo', 'benchmark', '--models', '--shapes', *shapes, '--rounds', '2', '--settings',
         'float32', '--variants', 'iebn', '--output', str(output)],
        env=ENV, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=interruptible)
    deadline = time.time() + 120
    while not output.exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.strip() == 'interrupted'
    rows = read(output)
    assert 2 <= len(rows) < 398 * 4 and len(rows) % 2 == 0 and all(row['ratio'] for row in rows)
    assert [p.name for p in tmp_path.iterdir()] == ['x.csv']
