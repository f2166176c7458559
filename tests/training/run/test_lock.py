"""Two runs never write one directory."""
import errno
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from iebn_zoo.commands.train import main as train
from iebn_zoo.training.run import lock as module
from iebn_zoo.training.run.directory import prepare
from iebn_zoo.training.run.lock import LOCK, RunLock
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.training.datasets import flags

HOLDER = """
import os, sys, time
from pathlib import Path
from iebn_zoo.training.run.lock import RunLock
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
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    more = flags(image_folder, run, '--epochs', '1', '--img-size', '16', how)
    with held(run) as (process, pid):
        with pytest.raises(UsageError, match=f'another run is writing .*process {pid} on '):
            train(more)
        assert {p.name: p.read_bytes() for p in run.iterdir() if p.name != LOCK} == {
            name: content for name, content in before.items() if name != LOCK}
        process.kill()  # SIGKILL: the file stays, the lock does not
        process.wait()
        train(more)


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


def test_a_process_is_kept_out_of_its_own_directory(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path, target_is_directory=True)
    first, second = RunLock(), RunLock()
    first.acquire(tmp_path)
    first.acquire(tmp_path)
    with pytest.raises(UsageError, match=f'another run .* {os.getpid()}'):
        second.acquire(tmp_path / 'link')
    first.release()
    second.acquire(tmp_path)
    second.release()


@pytest.mark.parametrize('number, message', [(errno.ENOLCK, 'without locks'), (errno.EIO, None)])
def test_a_file_system_without_locks_is_used_with_a_warning_and_a_broken_one_is_not(
        tmp_path, monkeypatch, capsys, number, message):
    def refuses(fd, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.fcntl, 'lockf', refuses)
    lock = RunLock()
    if message is None:
        with pytest.raises(IEBNZooError, match='cannot lock .*Input/output error'):
            lock.acquire(tmp_path)
    else:
        lock.acquire(tmp_path)
        assert message in capsys.readouterr().err
    lock.release()


def test_a_directory_that_becomes_read_only_or_full_does_not_hide_why_the_run_ends(tmp_path, monkeypatch):
    def fails(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(module.os, 'ftruncate', fails)
    lock = RunLock()
    lock.acquire(tmp_path)
    lock.release()
    lock.acquire(tmp_path)  # was unlocked all the same
    lock.release()


def test_what_lies_in_the_directory_is_read_behind_the_lock(tmp_path, monkeypatch):
    # another run may finish between our look and our lock
    real = RunLock.acquire

    def finishes_meanwhile(lock, directory):
        (directory / 'last.pth.tar').write_bytes(b'another run')
        real(lock, directory)

    monkeypatch.setattr(RunLock, 'acquire', finishes_meanwhile)
    lock = RunLock()
    with pytest.raises(UsageError, match='holds another run'):
        prepare(tmp_path, resume=False, overwrite=False, lock=lock)
    lock.release()
    assert (tmp_path / 'last.pth.tar').read_bytes() == b'another run'
