import builtins
from types import SimpleNamespace

import pytest

from iebn_zoo.commands.train import main as train
from iebn_zoo.training.callbacks.tensorboard import DIRECTORY, TensorBoard
from iebn_zoo.training.run.records import read_summary
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.training.datasets import flags


def scalars(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(run / DIRECTORY))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}


def session(output, rows, rank=0):
    return SimpleNamespace(output=output, rows=rows, rank=rank)


def logged(output, finished, new):
    board, s = TensorBoard(), session(output, list(finished))
    board.run_start(s)
    for row in new:
        board.epoch_written(s, row)
    board.close(s)


def rows(*top1):
    return [dict(epoch=i, train_loss=2.0, eval_top1=t, lr=0.1, gate_mean_stage1=0.25) for i, t in enumerate(top1)]


def test_columns_become_grouped_scalars(tmp_path):
    pytest.importorskip('tensorboard')
    logged(tmp_path, [], rows(10.0, 20.0))
    assert scalars(tmp_path) == {
        'loss/train': [(0, 2.0), (1, 2.0)], 'top1/eval': [(0, 10.0), (1, 20.0)],
        'lr': [(0, pytest.approx(0.1)), (1, pytest.approx(0.1))], 'gate_mean/stage1': [(0, 0.25), (1, 0.25)]}


def test_a_resumed_run_has_every_epoch_once(tmp_path):
    pytest.importorskip('tensorboard')
    # the killed process had written an epoch that its checkpoint does not hold, and the next lost one that it does
    logged(tmp_path, [], rows(10.0, 20.0, 99.0))
    logged(tmp_path, rows(10.0, 20.0), rows(10.0, 20.0, 30.0, 40.0)[2:3])
    assert scalars(tmp_path)['top1/eval'] == [(0, 10.0), (1, 20.0), (2, 30.0)]
    logged(tmp_path, rows(10.0, 20.0, 30.0, 40.0), [])
    assert scalars(tmp_path)['top1/eval'] == [(0, 10.0), (1, 20.0), (2, 30.0), (3, 40.0)]


def test_only_the_first_process_writes(tmp_path):
    pytest.importorskip('tensorboard')
    board, s = TensorBoard(), session(tmp_path, rows(1.0), rank=1)
    board.run_start(s)
    board.epoch_written(s, rows(1.0)[0])
    board.close(s)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_and_an_unwritable_place_are_messages(tmp_path, monkeypatch):
    args = SimpleNamespace(log_tensorboard=True)
    if pytest.importorskip('tensorboard'):
        (tmp_path / DIRECTORY).write_text('')
        with pytest.raises(IEBNZooError, match='cannot write'):
            TensorBoard.from_args(args).run_start(session(tmp_path, []))
    real = builtins.__import__

    def without(name, *more):
        if name.startswith('torch.utils.tensorboard'):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(UsageError, match='pip install'):
        TensorBoard.from_args(args)
    assert TensorBoard.from_args(SimpleNamespace(log_tensorboard=False)) is None


def test_a_run_and_its_continuation_write_what_summary_csv_holds(image_folder, tmp_path):
    pytest.importorskip('tensorboard')
    run = tmp_path / 'run'
    train(flags(image_folder, run, '--epochs', '1', '--sched', 'none', '--log-tensorboard'))
    train(flags(image_folder, run, '--epochs', '2', '--sched', 'none', '--resume', '--allow-recipe-change',
                '--log-tensorboard'))
    expected = [(r['epoch'], pytest.approx(r['eval_loss'])) for r in read_summary(run)]
    assert len(expected) == 2 and scalars(run)['loss/eval'] == expected
