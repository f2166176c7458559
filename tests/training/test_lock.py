"""Two runs never write one directory."""
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from iebn_zoo.errors import UsageError
from iebn_zoo.training import lock as module
from iebn_zoo.training.lock import LOCK, RunLock
from iebn_zoo.training.train import main as train
from tests.training.datasets import flags

HOLDER = """
import os, sys, time
from pathlib import Path
from iebn_zoo.training.lock import RunLock
RunLock().acquire(Path(sys.argv[1]))
if len(sys.argv) > 2 and os.fork() == 0:  # as a loader process, which outlives a parent that is killed
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
if len(sys.argv) == 2:
    print(os.getpid(), flush=True)
time.sleep(60)
"""


@contextmanager
def held(directory, *fork):
    process = subprocess.Popen([sys.executable, '-c', HOLDER, str(directory), *fork], stdout=subprocess.PIPE, text=True)
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize('how', ['--overwrite', '--resume'])
def test_a_directory_that_another_process_writes_is_left_alone(image_folder, tmp_path, how):
    run = tmp_path / 'run'
    train(flags(image_folder, run, '--epochs', '1', '--img-size', '16'))
    assert not (run / LOCK).exists()
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    more = flags(image_folder, run, '--epochs', '1', '--img-size', '16', how)
    with held(run) as (process, pid):
        with pytest.raises(UsageError, match=f'another run is writing .*process {pid} on '):
            train(more)
        (run / LOCK).read_text()
        assert {p.name: p.read_bytes() for p in run.iterdir() if p.name != LOCK} == before
        process.kill()  # SIGKILL: the file stays, the lock does not
        process.wait()
        assert (run / LOCK).exists()
        train(more)
    assert not (run / LOCK).exists()


def test_a_loader_process_that_outlives_a_killed_run_does_not_keep_the_lock(tmp_path):
    with held(tmp_path, 'fork') as (process, child):
        process.kill()
        process.wait()
        try:
            os.kill(child, 0)  # is alive
            lock = RunLock()
            lock.acquire(tmp_path)
            lock.release()
        finally:
            os.kill(child, 9)


def test_a_lock_file_that_its_owner_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    real = module.fcntl.lockf
    removals = iter([True, True])

    def removed_first(fd, how):
        if next(removals, False):
            (tmp_path / LOCK).unlink()
        real(fd, how)

    monkeypatch.setattr(module.fcntl, 'lockf', removed_first)
    lock = RunLock()
    lock.acquire(tmp_path)
    monkeypatch.undo()
    other = 'import sys; from pathlib import Path; from iebn_zoo.training.lock import RunLock; ' \
            'RunLock().acquire(Path(sys.argv[1]))'
    done = subprocess.run([sys.executable, '-c', other, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1 and f'process {os.getpid()} on' in done.stderr
    lock.release()
    assert subprocess.run([sys.executable, '-c', other, str(tmp_path)], capture_output=True).returncode == 0


def test_a_file_system_without_locks_is_used_without_one(tmp_path, monkeypatch):
    def refuses(fd, how):
        raise OSError(module.errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(module.fcntl, 'lockf', refuses)
    lock = RunLock()
    lock.acquire(tmp_path)
    lock.release()
