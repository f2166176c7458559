import errno
import os
import random
import stat
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from iebn_zoo.commands.train import main as train
from iebn_zoo.training.engine.random_state import rng_state, set_rng_state
from iebn_zoo.training.run import directory as run_directory
from iebn_zoo.training.run.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    RECOVERY,
    DamagedError,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from iebn_zoo.training.run.lock import LOCK, RunLock
from iebn_zoo.training.run.resume import find_checkpoint
from iebn_zoo.training.run.rotation import CheckpointStore
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.files import atomic_write
from iebn_zoo.weights.checksum import content_digest
from tests.support.training.datasets import flags


def checkpoint(epoch=0):
    return dict(arch='x', model_args={}, state_dict={'w': torch.ones(3)}, epoch=epoch)


def test_round_trip(tmp_path):
    save_checkpoint(tmp_path / LAST, checkpoint(4))
    loaded = load_checkpoint(tmp_path / LAST)
    assert loaded['epoch'] == 4 and torch.equal(loaded['state_dict']['w'], torch.ones(3))
    assert os.listdir(tmp_path) == [LAST]


def test_damaged_missing_and_foreign_files(tmp_path):
    path = tmp_path / LAST
    with pytest.raises(UsageError, match='no checkpoint'):
        load_checkpoint(path)
    save_checkpoint(path, checkpoint())
    whole = path.read_bytes()
    for damaged, said in ((whole[:len(whole) // 2], 'truncated'), (b'', 'truncated'), (b'hello', 'it is a text file')):
        path.write_bytes(damaged)
        with pytest.raises(IEBNZooError, match=said):
            load_checkpoint(path)
    torch.save({'state_dict': {}}, path)
    with pytest.raises(IEBNZooError, match="no 'arch'"):
        load_checkpoint(path)


class _Evil:
    def __reduce__(self):
        return os.mkdir, ('evil_was_here',)


def test_no_code_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(checkpoint(), extra=_Evil()), tmp_path / LAST)
    with pytest.raises(IEBNZooError):
        load_checkpoint(tmp_path / LAST)
    assert not (tmp_path / 'evil_was_here').exists()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / LAST
    path.write_text('old')
    with pytest.raises(IEBNZooError, match='No space left'), atomic_write(path) as file:
        file.write(b'half')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == 'old' and os.listdir(tmp_path) == [LAST]


def test_store_keeps_last_best_and_history(tmp_path):
    store = CheckpointStore(tmp_path, history=2)
    for epoch, metric in enumerate([10., 30., 20., 5.]):
        store.rank(metric, epoch)
        store.write(checkpoint(epoch))
    assert sorted(os.listdir(tmp_path)) == ['checkpoint-1.pth.tar', 'checkpoint-2.pth.tar', LAST, BEST, PREVIOUS]
    assert load_checkpoint(tmp_path / LAST)['epoch'] == 3
    assert load_checkpoint(tmp_path / PREVIOUS)['epoch'] == 2
    assert load_checkpoint(tmp_path / BEST)['epoch'] == 1
    again = CheckpointStore(tmp_path, history=2)
    again.restore(load_checkpoint(tmp_path / LAST))
    assert (again.best, again.kept) == ((30., 1), [(30., 1), (20., 2)])


def test_a_finished_epoch_takes_the_place_of_its_recovery_checkpoint(tmp_path):
    store = CheckpointStore(tmp_path, history=0)
    store.write(checkpoint(0))
    store.write_recovery(checkpoint(0))
    assert sorted(os.listdir(tmp_path)) == [LAST, RECOVERY]
    store.write(checkpoint(1))
    assert sorted(os.listdir(tmp_path)) == [LAST, PREVIOUS]


def test_a_file_system_without_hard_links_keeps_the_previous_one_too(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, 'link', refuse)
    store = CheckpointStore(tmp_path, history=0)
    for epoch in range(2):
        store.write(checkpoint(epoch))
    assert load_checkpoint(tmp_path / PREVIOUS)['epoch'] == 0 and sorted(os.listdir(tmp_path)) == [LAST, PREVIOUS]


def test_every_flipped_byte_of_a_tensor_is_noticed(tmp_path):
    path = tmp_path / LAST
    save_checkpoint(path, dict(checkpoint(), rows=[dict(epoch=0, eval_top1=12.5)]))
    whole = path.read_bytes()
    for place in (whole.index(np.float32(1).tobytes() * 3), whole.index(np.float64(12.5).byteswap().tobytes())):
        path.write_bytes(whole[:place + 1] + bytes([whole[place + 1] ^ 1]) + whole[place + 2:])
        with pytest.raises(IEBNZooError, match='checksum'):
            load_checkpoint(path)


def test_a_newer_schema_is_refused(tmp_path):
    torch.save(dict(checkpoint(), schema=99), tmp_path / LAST)
    with pytest.raises(IEBNZooError, match='schema 99'):
        load_checkpoint(tmp_path / LAST)


def test_the_digest_sees_types_order_and_values():
    same = content_digest({'a': torch.ones(2, 3, 4, 5)})
    assert same == content_digest({'a': torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)})
    values = [{'a': 1}, {'a': 1.0}, {'a': '1'}, {'b': 1}, {'a': [1]}, {'a': (1,)}, {'a': torch.tensor(1)},
              {'a': torch.tensor([1])}, {'a': torch.tensor(1.0)}, {'a': None}, {'a': True}, {'a': 1, 'b': 2},
              {'b': 2, 'a': 1}, ['a', 1], ['a1']]
    assert len({content_digest(v) for v in values}) == len(values)


def test_smaller_is_better_for_a_loss(tmp_path):
    store = CheckpointStore(tmp_path, history=1, metric='loss')
    for epoch, metric in enumerate([3., 1., 2.]):
        store.rank(metric, epoch)
    assert store.best == (1., 1) and store.kept == [(1., 1)]


@pytest.mark.parametrize('metric', ['top1', 'loss'])
def test_a_metric_that_is_no_number_is_the_worst(tmp_path, metric):
    store = CheckpointStore(tmp_path, history=2, metric=metric)
    for epoch, value in enumerate([float('nan'), 3., float('nan'), 2.]):
        store.rank(value, epoch)
    best = 3 if metric == 'loss' else 1
    assert store.best[1] == best and {epoch for _, epoch in store.kept} == {1, 3}


TOO_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from iebn_zoo.training.run.checkpoint import load_checkpoint
from iebn_zoo.util.errors import IEBNZooError
path, limits = Path(sys.argv[1]), resource.getrlimit(resource.RLIMIT_AS)
used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), limits[1]))
try:
    load_checkpoint(path)
except IEBNZooError as e:
    print(type(e).__name__, len(str(e).splitlines()), e)
resource.setrlimit(resource.RLIMIT_AS, limits)
assert load_checkpoint(path)['epoch'] == 0
"""


def test_too_little_memory_is_no_damage(tmp_path):
    path = tmp_path / LAST
    save_checkpoint(path, dict(checkpoint(), state_dict={'w': torch.ones(32 << 20)}))
    # in a process of its own: one that has trained before may have kept as much memory
    done = subprocess.run([sys.executable, '-c', TOO_LITTLE_MEMORY, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kind, lines, said = done.stdout.split(' ', 2)
    assert kind == 'IEBNZooError' and int(lines) <= 3 and f'{LAST}: not enough memory' in said
    assert os.listdir(tmp_path) == [LAST]


def test_a_file_that_may_not_be_read_is_no_damage():
    with tempfile.TemporaryDirectory() as name:  # which others may enter, unlike tmp_path
        run = Path(name)
        run.chmod(0o755)
        save_checkpoint(run / LAST, checkpoint())
        save_checkpoint(run / PREVIOUS, dict(checkpoint(), position=dict(epoch=1, step=0)))
        (run / LAST).chmod(0)
        root = os.geteuid() == 0  # reads everything, unless it becomes somebody else
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(IEBNZooError, match=f'cannot read the checkpoint {run / LAST}: Permission denied') as e:
                find_checkpoint(run)
        finally:
            if root:
                os.seteuid(0)
        assert not isinstance(e.value, DamagedError) and sorted(os.listdir(run)) == [LAST, PREVIOUS]


@pytest.mark.parametrize('number, refused', [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_a_directory_is_written_to(tmp_path, monkeypatch, number, refused):
    sync = os.fsync

    def fsync(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        sync(fd)

    monkeypatch.setattr(os, 'fsync', fsync)
    with pytest.raises(IEBNZooError, match='cannot write') if refused else nullcontext():
        save_checkpoint(tmp_path / LAST, checkpoint(4))
    assert load_checkpoint(tmp_path / LAST)['epoch'] == 4


def test_what_a_kill_left_half_written_is_removed_and_nothing_else(tmp_path):
    left = [f'.{name}.abcd1234.tmp' for name in (LAST, 'batch_noise.csv', 'summary.csv', 'test_best.json', 'args.yaml')]
    mine = ['.mine.abcd1234.tmp', 'notes.tmp', '.bashrc']
    for name in (*left, *mine):
        (tmp_path / name).write_text('half')
    lock = RunLock()
    run_directory.prepare(tmp_path, True, False, lock)
    lock.release()
    assert {*os.listdir(tmp_path)} - {LOCK} == {*mine}


def test_overwrite_takes_what_was_set_aside_and_the_logs_of_loggers_too(tmp_path):
    for folder in ('abandoned/1', 'tensorboard', 'wandb/offline-run-1'):
        (tmp_path / folder).mkdir(parents=True)
    for name in (LAST, f'{LAST}.damaged', f'{BEST}.abandoned-2', f'abandoned/1/{BEST}', 'tensorboard/events',
                 'wandb/offline-run-1/run.wandb'):
        (tmp_path / name).write_text('old')
    lock = RunLock()
    run_directory.prepare(tmp_path, False, True, lock)
    lock.release()
    assert {*os.listdir(tmp_path)} <= {LOCK}


@pytest.mark.parametrize('run', [(), (LAST, 'rank0.log', 'checkpoint-3.pth.tar')])
def test_overwrite_leaves_what_no_run_wrote(tmp_path, run):
    mine = ('resnet50_downloaded.pth.tar', 'mine.pth.tar.damaged', 'rank_list.log', 'ranking.log')
    for name in (*mine, *run):
        (tmp_path / name).write_text('x')
    if not run:  # the offline logs of somebody else
        (tmp_path / 'wandb').mkdir()
    lock = RunLock()
    run_directory.prepare(tmp_path, False, bool(run), lock)  # without a run there is nothing to overwrite
    lock.release()
    run_directory.prepare(tmp_path, False, True, lock)
    lock.release()
    assert {*os.listdir(tmp_path)} - {LOCK} == {*mine, *(() if run else ('wandb',))}


@pytest.mark.parametrize('flag, place', [
    ('--initial-checkpoint', LAST), ('--initial-checkpoint', 'abandoned/1/' + BEST), ('--config', 'args.yaml'),
    ('--data-dir', 'wandb'), ('--mix-dataset', 'tensorboard/images')])
def test_overwrite_removes_nothing_that_the_run_reads(tmp_path, image_folder, flag, place):
    for folder in ('abandoned/1', 'tensorboard/images', 'wandb'):
        (tmp_path / folder).mkdir(parents=True)
    for name in (LAST, 'args.yaml', 'abandoned/1/' + BEST):
        (tmp_path / name).write_text('old')
    before = sorted(tmp_path.rglob('*'))
    lock = RunLock()
    with pytest.raises(UsageError) as e:
        run_directory.prepare(tmp_path, False, True, lock, {flag: str(tmp_path / place)})
    lock.release()
    assert f'{flag} is a part of the run that --overwrite would remove' in str(e.value)
    assert sorted(path for path in tmp_path.rglob('*') if path.name != LOCK) == before
    run_directory.prepare(tmp_path, False, True, lock, {flag: str(image_folder), '--config': None})
    lock.release()
    assert {*os.listdir(tmp_path)} <= {LOCK}


def test_a_run_is_not_replaced_by_one_that_starts_from_it(image_folder, tmp_path):
    run = tmp_path / 'run'
    train(flags(image_folder, run, '--epochs', '1', '--img-size', '16'))
    before = {path: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(UsageError, match=f'{LAST} of --initial-checkpoint is a part of the run that --overwrite'):
        train(flags(image_folder, run, '--epochs', '1', '--img-size', '16', '--initial-checkpoint', str(run / LAST),
                    '--overwrite'))
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_generators_continue_where_they_were():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    np.random.randn()  # leaves a cached gaussian behind
    state = rng_state(torch.device('cpu'))
    first = random.random(), np.random.randn(), np.random.rand(), torch.rand(3)
    set_rng_state(state, torch.device('cpu'))
    second = random.random(), np.random.randn(), np.random.rand(), torch.rand(3)
    assert first[:3] == second[:3] and torch.equal(first[3], second[3])


@pytest.mark.parametrize('change, named', [
    (lambda s: s.pop('bias'), "lacks 'bias'"),
    (lambda s: s.update(extra=torch.ones(1)), "unknown 'extra'"),
    (lambda s: s.update(bias=torch.ones(5)), "'bias' as (5,), not (2,)"),
])
def test_foreign_weights_are_named(change, named):
    model = nn.Linear(3, 2)
    state = model.state_dict()
    change(state)
    with pytest.raises(IEBNZooError) as e:
        load_weights(model, state, 'file')
    assert named in str(e.value)
