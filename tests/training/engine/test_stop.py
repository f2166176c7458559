"""Signals to a real run: a checkpoint at the next update, a line, and the same bits after all."""
import os
import signal
import subprocess
import sys
import time

import pytest

from iebn_zoo.cli import run as run_command
from iebn_zoo.commands.train import main as train
from iebn_zoo.training.engine import run as run_module
from iebn_zoo.training.engine.stop import DEADLINE, DEADLINE_EXIT, NAMES, Stopped, StopSignals
from iebn_zoo.training.run.checkpoint import LAST, RECOVERY, load_checkpoint
from iebn_zoo.training.run.records import read_summary
from tests.support.training.datasets import flags
from tests.training.kill_and_resume import compare_runs

MORE = ('--model-kwargs', 'layers=(1,1,1)', '--img-size', '16', '--batch-size', '4', '--model-ema', '--drop', '0.2')


@pytest.fixture(scope='module')
def whole(image_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp('whole') / 'run'
    train(flags(image_folder, run, *MORE))
    return run


def started(image_folder, run, *more, **kwargs):
    env = dict(os.environ, OMP_NUM_THREADS='1')
    argv = ['train', *flags(image_folder, run, *MORE, *more)]
    return subprocess.Popen([sys.executable, '-m', 'iebn_zoo', *argv], env=env, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **kwargs)


def wait_for(process, path, seconds=300):
    deadline = time.time() + seconds
    while not path.exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert path.exists(), process.communicate()


@pytest.mark.parametrize('name, workers', [('SIGUSR1', '0'), ('SIGTERM', '2')])
def test_a_signal_to_all_processes_is_a_checkpoint_at_the_next_update_and_one_line(
        image_folder, tmp_path, name, workers):
    run = tmp_path / 'run'
    process = started(image_folder, run, '--epochs', '500', '-j', workers, '--no-device-data', start_new_session=True)
    wait_for(process, run / 'checkpoint-0.pth.tar')
    number = getattr(signal, name)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number and 'Traceback' not in err, err
    (line,) = [line for line in out.splitlines() if line.startswith('stopped')]
    saved = run / (RECOVERY if (run / RECOVERY).exists() else LAST)
    assert line == f'stopped by {name}; continue with the same command and --resume (state in {saved})'
    assert load_checkpoint(saved)['updates'] >= load_checkpoint(run / LAST)['updates'] > 0


class At:
    """Sends this process a signal, or two, at one point of a run."""

    def __init__(self, monkeypatch, name, when, times=1):
        original, calls = getattr(run_module, name), []

        def called(*args, **kwargs):
            calls.append(name)
            if len(calls) == when:
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGTERM)
            return original(*args, **kwargs)

        monkeypatch.setattr(run_module, name, called)


@pytest.mark.parametrize('name, when, position', [
    ('train_one_epoch', 1, (0, 1)), ('train_one_epoch', 2, (1, 1)),
    ('evaluate', 1, (0, 12)), ('evaluate', 2, (0, 12)),  # 12 updates an epoch; the second is of the average
])
def test_wherever_it_comes_the_run_ends_with_the_same_bits(
        whole, image_folder, tmp_path, monkeypatch, name, when, position, capsys):
    run = tmp_path / 'run'
    with monkeypatch.context() as patch:
        At(patch, name, when)
        with pytest.raises(Stopped) as e:
            train(flags(image_folder, run, *MORE))
    assert e.value.saved and e.value.number == signal.SIGTERM
    assert f'state in {run / RECOVERY}' in capsys.readouterr().out
    found = load_checkpoint(run / RECOVERY)['position']
    assert (found['epoch'], found['step']) == position
    train(flags(image_folder, run, *MORE, '--resume'))
    assert compare_runs(whole, run) == []


def test_in_the_last_evaluation_the_run_stops_too_and_a_resume_finishes_it(whole, image_folder, tmp_path, monkeypatch):
    run = tmp_path / 'run'
    with monkeypatch.context() as patch:
        At(patch, 'evaluate', 3)
        with pytest.raises(Stopped):
            train(flags(image_folder, run, *MORE))
    train(flags(image_folder, run, *MORE, '--resume'))
    assert compare_runs(whole, run) == []


def test_a_deadline_shorter_than_the_evaluation_does_not_keep_a_run_from_going_on(
        whole, image_folder, tmp_path, monkeypatch):
    run = tmp_path / 'run'
    with monkeypatch.context() as patch:
        At(patch, 'evaluate', 2)  # the epoch is trained, and the evaluation of the average is left
        with pytest.raises(Stopped):
            train(flags(image_folder, run, *MORE))
    with pytest.raises(Stopped) as e:
        train(flags(image_folder, run, *MORE, '--resume', '--stop-after', '1e-9'))
    assert (e.value.number, e.value.saved) == (DEADLINE, True)
    assert load_checkpoint(run / LAST)['position']['epoch'] == 1 and len(read_summary(run)) == 1
    with monkeypatch.context() as patch:
        At(patch, 'evaluate', 2)
        with pytest.raises(Stopped):
            train(flags(image_folder, run, *MORE, '--resume'))
        At(patch, 'evaluate', 1)  # a signal stops an evaluation also in a call that trains nothing
        with pytest.raises(Stopped) as e:
            train(flags(image_folder, run, *MORE, '--resume', '--stop-after', '1e-9'))
    assert e.value.number == signal.SIGTERM
    train(flags(image_folder, run, *MORE, '--resume', '--stop-after', '1e-9'))
    assert compare_runs(whole, run) == []


def test_the_second_signal_stops_at_once(image_folder, tmp_path, monkeypatch):
    At(monkeypatch, 'train_one_epoch', 2, times=2)
    with pytest.raises(Stopped) as e:
        train(flags(image_folder, tmp_path / 'run', *MORE))
    assert not e.value.saved and not (tmp_path / 'run' / RECOVERY).exists()


def test_handlers_are_put_back_and_what_is_ignored_stays_ignored(image_folder, tmp_path):
    before = {name: signal.getsignal(getattr(signal, name)) for name in NAMES}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received is None
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop.received == signal.SIGUSR1
        assert signal.getsignal(signal.SIGTERM) is before['SIGTERM']
    finally:
        signal.signal(signal.SIGHUP, before['SIGHUP'])
    assert {name: signal.getsignal(getattr(signal, name)) for name in NAMES} == before


def test_two_processes_stop_at_the_same_update_whichever_is_asked(whole, image_folder, tmp_path):
    run = tmp_path / 'run'
    argv = flags(image_folder, run, *MORE, '--epochs', '500')
    process = subprocess.Popen(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m', 'iebn_zoo',
         'train', *argv], env=dict(os.environ, OMP_NUM_THREADS='1'), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE)
    wait_for(process, run / 'checkpoint-0.pth.tar')
    children = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(process.pid)], capture_output=True, text=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGUSR1)  # of the second
    out, err = process.communicate(timeout=180)
    assert 'stopped by SIGUSR1; continue' in out, err
    saved = run / (RECOVERY if (run / RECOVERY).exists() else LAST)
    assert len(load_checkpoint(saved)['rng']) == 2


def test_a_deadline_stops_after_the_update_it_falls_into_and_a_resume_goes_on(whole, image_folder, tmp_path, capsys):
    run = tmp_path / 'run'
    with pytest.raises(Stopped) as e:
        train(flags(image_folder, run, *MORE, '--stop-after', '1e-9'))
    assert (e.value.exit_code, e.value.saved) == (DEADLINE_EXIT, True)
    assert 'stopped by --stop-after; continue with the same command and --resume' in capsys.readouterr().out
    assert load_checkpoint(run / RECOVERY)['position']['step'] == 1
    with pytest.raises(Stopped):
        train(flags(image_folder, run, *MORE, '--stop-after', '1e-9', '--resume'))
    assert load_checkpoint(run / RECOVERY)['position']['step'] == 2
    train(flags(image_folder, run, *MORE, '--stop-after', '1000', '--resume'))
    assert compare_runs(whole, run) == []


def test_the_exit_code_of_a_deadline_is_no_interruption(capsys):
    def main(argv):
        raise Stopped(DEADLINE, saved=True)

    assert run_command(main) == DEADLINE_EXIT == 75 and 'interrupted' not in capsys.readouterr().err
