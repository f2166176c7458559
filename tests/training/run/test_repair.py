"""What a run directory holds after a resume from any checkpoint: the way to it, and nothing else under these names."""
import math
import os

import pytest
import torch

from iebn_zoo.training.run.checkpoint import BEST, LAST, PREVIOUS, RECOVERY, load_checkpoint, save_checkpoint
from iebn_zoo.training.run.repair import settle
from iebn_zoo.training.run.resume import find_checkpoint
from iebn_zoo.training.run.rotation import CheckpointStore, history_name

METRICS = (50., 30., 60., 70., 40.)


def content(metrics, step=0):
    epoch = len(metrics)
    return dict(arch='x', model_args={}, state_dict={'w': torch.full((2,), epoch + step / 10)}, epoch=epoch - 1,
                position=dict(epoch=epoch, step=step), rows=[dict(epoch=i, top1=m) for i, m in enumerate(metrics)])


def write_run(run, metrics=METRICS, history=9):
    run.mkdir(exist_ok=True)
    store = CheckpointStore(run, history)
    for epoch, metric in enumerate(metrics):
        store.rank(metric, epoch)
        store.write(content(metrics[:epoch + 1]))
    return store


def write_recovery(store, metrics, step=4):
    store.write_recovery(content(metrics, step))
    return store.directory / RECOVERY


def go_to(asked, run):
    run.mkdir(exist_ok=True)
    found = find_checkpoint(run, str(asked))
    store = CheckpointStore(run, 9)
    store.restore(found.checkpoint)
    settle(store, found)
    return store


def held(run):
    return {p.name: (c['position']['epoch'], c['position']['step'])
            for p in run.glob('*.pth.tar') for c in [load_checkpoint(p)]}


@pytest.mark.parametrize('place', ['other', 'same'])
def test_the_middle_of_an_epoch_becomes_recovery_and_nothing_else(tmp_path, place, capsys):
    store = write_run(tmp_path / 'run', METRICS[:2])
    asked = write_recovery(store, METRICS[:2])
    if place == 'same':  # a copy under another name, and the run went on to epochs 3 and 4 and into 5
        asked = asked.rename(asked.with_name('kept.pth.tar'))
        write_run(tmp_path / 'run', METRICS[:4])
        write_recovery(store, METRICS[:4], 2)
    run = tmp_path / ('run' if place == 'same' else 'new')
    go_to(asked, run)
    expected = {RECOVERY: (2, 4), BEST: (1, 0), history_name(0): (1, 0), history_name(1): (2, 0)}
    if place == 'same':  # its last was of epoch 3: no file of epoch 1 but the history is on the way
        assert held(run) == {**expected, 'kept.pth.tar': (2, 4)}
        assert {p.name for p in (run / 'abandoned' / '1').iterdir()} == {
            LAST, PREVIOUS, RECOVERY, BEST, history_name(2), history_name(3)}
        assert capsys.readouterr().out.count('It was moved to abandoned/1/') == 6
    else:
        assert held(run) == {**expected, LAST: (2, 0)} and not (run / 'abandoned').exists()
    assert find_checkpoint(run).path.name == RECOVERY


def test_going_back_puts_best_right_and_deletes_nothing(tmp_path, capsys):
    run = tmp_path / 'run'
    write_run(run)
    before = held(run)
    assert before[BEST] == (4, 0) and before[PREVIOUS] == (4, 0)
    store = go_to(run / history_name(1), run)
    assert store.best == (50., 0) and held(run) == {
        LAST: (2, 0), BEST: (1, 0), history_name(0): (1, 0), history_name(1): (2, 0)}
    out = capsys.readouterr().out
    for name in (LAST, BEST, PREVIOUS, *(history_name(e) for e in (2, 3, 4))):
        assert load_checkpoint(run / 'abandoned' / '1' / name)['position']['epoch'] == before[name][0]
        assert (f'{name} is newer than the checkpoint that the run goes on from. '
                f'It was moved to abandoned/1/{name}.') in out
    assert find_checkpoint(run).path.name == LAST
    write_run(run)
    go_to(run / history_name(1), run)  # what was set aside the first time is not written over
    assert (run / 'abandoned' / '1' / LAST).exists() and (run / 'abandoned' / '2' / LAST).exists()


def test_a_new_directory_gets_the_best_and_the_history_of_the_old_one(tmp_path):
    write_run(tmp_path / 'run')
    go_to(tmp_path / 'run' / history_name(1), tmp_path / 'new')
    assert held(tmp_path / 'new') == {LAST: (2, 0), BEST: (1, 0), history_name(0): (1, 0), history_name(1): (2, 0)}


def test_a_best_that_no_file_has_is_told_and_not_replaced_by_another(tmp_path, capsys):
    run = tmp_path / 'run'
    write_run(run)
    (run / history_name(0)).unlink()
    go_to(run / history_name(1), run)
    assert BEST not in held(run) and (run / 'abandoned' / '1' / BEST).exists()
    assert f'the best epoch so far, 0, is in no file any more: there is no {BEST}' in capsys.readouterr().out


def test_another_runs_files_of_the_same_epochs_are_not_taken_for_its_own(tmp_path):
    write_run(tmp_path / 'run')
    write_run(tmp_path / 'other', (51., 31.))
    go_to(tmp_path / 'run' / history_name(2), tmp_path / 'other')
    assert held(tmp_path / 'other') == {
        LAST: (3, 0), BEST: (3, 0), history_name(0): (1, 0), history_name(1): (2, 0), history_name(2): (3, 0)}
    for name in (LAST, BEST, PREVIOUS, history_name(0), history_name(1)):
        assert load_checkpoint(tmp_path / 'other' / 'abandoned' / '1' / name)['rows'][0]['top1'] == 51.
    assert load_checkpoint(tmp_path / 'other' / history_name(0))['rows'][0]['top1'] == 50.


@pytest.mark.parametrize('asked', ['auto', LAST])
def test_nothing_is_abandoned_where_nothing_is_in_the_way(tmp_path, asked):
    run = tmp_path / 'run'
    store = write_run(run, (*METRICS[:2], math.nan, 5.))
    before = held(run)
    (run / history_name(3)).unlink()  # a killed process had this copy still to make
    store.kept = [k for k in store.kept if k[1] != 1]  # and that file still to remove, and recovery
    save_checkpoint(run / LAST, dict(load_checkpoint(run / LAST), kept=store.kept))
    write_recovery(store, METRICS[:1])
    go_to(run / LAST if asked == LAST else asked, run)
    del before[history_name(1)]
    assert held(run) == before and not (run / 'abandoned').exists()


def test_the_epoch_after_a_damaged_last_is_set_aside(tmp_path):
    run = tmp_path / 'run'
    write_run(run)
    (run / LAST).write_bytes(b'')
    go_to('auto', run)
    assert held(run)[LAST] == (4, 0) and held(run)[BEST] == (4, 0)
    assert (run / f'{LAST}.damaged').exists() and (run / 'abandoned' / '1' / history_name(4)).exists()


def test_files_with_other_names_are_left_alone(tmp_path):
    run = tmp_path / 'run'
    write_run(run)
    mine = [run / 'checkpoint-good.pth.tar', run / 'mine.pth.tar']
    for path in mine:
        path.write_bytes(b'not ours')
    go_to(run / history_name(1), run)
    assert all(path.read_bytes() == b'not ours' for path in mine)


def test_a_kill_between_two_steps_leaves_a_directory_that_goes_on(tmp_path, monkeypatch):
    # the same command again ends where it would have ended at once, whichever rename or link was the last one
    for calls in range(1, 9):
        run = tmp_path / f'run{calls}'
        write_run(run)
        left = [calls]
        with monkeypatch.context() as patch:
            for name in ('replace', 'rename', 'link'):
                def dying(*args, real=getattr(os, name), left=left):
                    if not left[0]:
                        raise KeyboardInterrupt
                    left[0] -= 1
                    real(*args)
                patch.setattr(os, name, dying)
            with pytest.raises(KeyboardInterrupt):
                go_to(run / history_name(1), run)
        go_to('auto', run)  # whole, from whichever of the two
        assert held(run)[LAST][0] in (2, 5)
        assert held(run)[BEST][0] == (4 if held(run)[LAST][0] == 5 else 1)
        go_to(run / history_name(1), run)
        assert held(run) == {LAST: (2, 0), BEST: (1, 0), history_name(0): (1, 0), history_name(1): (2, 0)}
