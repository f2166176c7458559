"""A run that was stopped anywhere goes on as if it had not been; what stands in the way of that is said."""
import math
import os
import resource
import shutil
import subprocess
import sys

import pytest
import torch

from iebn_zoo.commands.train import main as train
from iebn_zoo.training.callbacks import base as extensions
from iebn_zoo.training.callbacks.base import Extension
from iebn_zoo.training.run import records as log
from iebn_zoo.training.run.checkpoint import BEST, LAST, PREVIOUS, RECOVERY, load_checkpoint, save_checkpoint
from iebn_zoo.training.run.records import CURVES
from iebn_zoo.training.run.resume import find_checkpoint
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.training.datasets import flags, write_folder
from tests.training.kill_and_resume import compare_runs, kill_and_resume

ALL = ('--img-size', '16', '--batch-size', '8', '--drop', '0.2', '--drop-path', '0.1', '--reprob', '0.3', '--mixup',
       '0.2', '--aa', 'rand-m5-mstd0.5', '--model-ema', '--model-ema-decay', '0.9', '--sched-on-updates',
       '--checkpoint-steps', '2', '--checkpoint-hist', '2')


class Stop(Extension):
    """Interrupts training before the batch ``at`` (epoch, step), as Ctrl-C would."""

    name, at = 'stop', (0, 0)

    @classmethod
    def from_args(cls, args):
        return cls()

    def companions(self, epoch, step):
        if (epoch, step) == self.at:
            raise KeyboardInterrupt


def stopped(monkeypatch, at, argv):
    """Train until before ``at``."""
    with monkeypatch.context() as patch:
        patch.setattr(extensions, 'EXTENSIONS', (*extensions.EXTENSIONS, 'tests.training.run.test_resume:Stop'))
        patch.setattr(Stop, 'at', at)
        with pytest.raises(KeyboardInterrupt):
            train(argv)


@pytest.fixture(scope='module')
def whole(image_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp('whole') / 'run'
    train(flags(image_folder, run, *ALL))
    return run


@pytest.mark.parametrize('at, workers, begins', [((1, 5), '1', (1, 4)), ((0, 3), '2', (0, 2)), ((1, 0), '0', (1, 0))])
def test_a_run_stopped_between_any_two_updates_ends_with_the_same_bits(
        whole, image_folder, tmp_path, monkeypatch, at, workers, begins, capsys):
    run = tmp_path / 'run'
    stopped(monkeypatch, at, flags(image_folder, run, *ALL))
    assert (run / RECOVERY).exists() == (begins[1] > 0)
    train(flags(image_folder, run, *ALL, '-j', workers, '--no-device-data', '--resume'))
    assert f'at epoch {begins[0]}, step {begins[1]}' in capsys.readouterr().out
    assert compare_runs(whole, run) == []


@pytest.mark.filterwarnings('error:PlateauLRScheduler is deprecated')  # which is said of timm's own loop
def test_attacks_measures_and_plateau_go_on_with_the_same_bits(image_folder, tmp_path, monkeypatch):
    mix = write_folder(tmp_path / 'mix', train=9, test=2, size=20, classes=('u', 'v'))
    argv = ('--img-size', '16', '--batch-size', '8', '--cutmix', '0.5', '--model-ema', '--model-ema-warmup',
            '--grad-accum-steps', '2', '--sched', 'plateau', '--holdout', '0.2', '--mix-dataset', str(mix),
            '--mix-count', '3', '--norm-noise', '0.8', '0.3', '--batch-noise', '4', '--gate-stats', '--channels-last',
            '--checkpoint-steps', '1')
    runs = [tmp_path / name for name in ('whole', 'run')]
    train(flags(image_folder, runs[0], *argv))
    stopped(monkeypatch, (1, 3), flags(image_folder, runs[1], *argv))
    assert load_checkpoint(runs[1] / RECOVERY)['position']['step'] == 2
    train(flags(image_folder, runs[1], *argv, '-j', '2', '--no-device-data', '--resume'))
    assert compare_runs(*runs) == []
    assert (runs[0] / 'batch_noise.csv').read_bytes() == (runs[1] / 'batch_noise.csv').read_bytes()


def test_if_any_is_one_command_for_every_start(whole, image_folder, tmp_path, monkeypatch):
    argv = flags(image_folder, tmp_path / 'run', *ALL, '--resume', 'if-any')
    stopped(monkeypatch, (0, 1), argv)
    stopped(monkeypatch, (1, 5), argv)
    train(argv)
    assert compare_runs(whole, tmp_path / 'run') == []
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match='no checkpoint at if-any'):  # a file of that name
        train(flags(image_folder, tmp_path / 'other', *ALL, '--resume', './if-any'))


def test_if_any_does_not_begin_over_checkpoints_that_it_cannot_use(tmp_path):
    assert find_checkpoint(tmp_path, 'if-any') is None and find_checkpoint(tmp_path / 'none', 'if-any') is None
    (tmp_path / 'args.yaml').touch()
    assert find_checkpoint(tmp_path, 'if-any') is None
    (tmp_path / 'checkpoint-3.pth.tar').touch()
    with pytest.raises(UsageError, match='no checkpoint'):
        find_checkpoint(tmp_path, 'if-any')
    (tmp_path / LAST).touch()
    with pytest.raises(IEBNZooError, match='damaged'):
        find_checkpoint(tmp_path, 'if-any')


def test_a_stopped_run_has_its_curve_and_a_finished_one_gets_it_again(whole, image_folder, tmp_path, monkeypatch):
    run = tmp_path / 'run'
    argv = flags(image_folder, run, *ALL)
    stopped(monkeypatch, (1, 0), argv)
    assert (run / CURVES).read_bytes()[:4] == b'\x89PNG'
    run = shutil.copytree(whole, tmp_path / 'copy')
    drawn = (run / CURVES).read_bytes()
    (run / CURVES).unlink()
    train(flags(image_folder, run, *ALL, '--resume'))
    assert (run / CURVES).read_bytes() == drawn


def test_whoever_sees_the_last_epoch_in_summary_finds_the_curve(image_folder, tmp_path, monkeypatch):
    def killed(run, rows):
        if len(rows) == 2:
            assert (run / CURVES).exists()
            raise KeyboardInterrupt
    monkeypatch.setattr(log, 'write_timing', killed)  # right after summary.csv
    monkeypatch.setattr(log.Curves, 'finish', lambda self, rows: None)  # no handler runs after SIGKILL
    with pytest.raises(KeyboardInterrupt):
        train(flags(image_folder, tmp_path / 'run', '--img-size', '16', '--no-aug'))
    assert [r['epoch'] for r in log.read_summary(tmp_path / 'run')] == [0, 1]


def test_curves_are_drawn_now_and_then(tmp_path, monkeypatch):
    drawn, clock = [], [0.]
    monkeypatch.setattr(log, 'plot_curves', lambda run, rows: drawn.append(len(rows)))
    monkeypatch.setattr(log.time, 'monotonic', lambda: clock[0])
    curves = log.Curves(tmp_path)
    for epoch in range(1, 8):
        clock[0] += 25
        curves.show([{}] * epoch)
    curves.finish([{}] * 7)
    curves.finish([{}] * 7)
    assert drawn == [3, 6, 7]


def test_compare_runs_sees_a_single_bit(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / 'run')
    last = load_checkpoint(run / LAST)
    buffer = next(iter(last['optimizer']['state'].values()))['momentum_buffer']
    buffer.view(torch.int32).flatten()[3] ^= 1
    save_checkpoint(run / LAST, last)
    assert len(compare_runs(whole, run)) == 1


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize('damaged, used', [([LAST], PREVIOUS), ([RECOVERY], LAST), ([LAST, RECOVERY], PREVIOUS)])
def test_a_damaged_checkpoint_is_named_and_another_one_used(
        whole, image_folder, tmp_path, monkeypatch, capsys, damaged, used):
    run = tmp_path / 'run'
    stopped(monkeypatch, (1, 5 if RECOVERY in damaged else 1), flags(image_folder, run, *ALL))
    for name in damaged:
        damage(run / name)
    train(flags(image_folder, run, *ALL, '--resume'))
    err = capsys.readouterr().err
    for name in damaged:
        assert f'{name} is damaged' in err and f'continuing from {used}' in err
        (run / f'{name}.damaged').unlink()
    assert compare_runs(whole, run) == []


def test_damage_everywhere_is_an_error_and_nothing_is_touched(whole, image_folder, tmp_path):
    run = shutil.copytree(whole, tmp_path / 'run')
    for name in (LAST, PREVIOUS):
        damage(run / name)
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    with pytest.raises(IEBNZooError, match=LAST):
        train(flags(image_folder, run, *ALL, '--resume'))
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_what_a_kill_left_undone_is_done_on_resume(whole, image_folder, tmp_path):
    run = shutil.copytree(whole, tmp_path / 'run')
    last = load_checkpoint(run / LAST)
    done = [run / 'summary.csv', run / 'timing.csv', run / f"checkpoint-{last['epoch']}.pth.tar"]
    if last['best'][1] == last['epoch']:
        done.append(run / BEST)
    for path in done:
        path.unlink()
    (run / 'checkpoint-77.pth.tar').write_bytes(b'not of the run')
    (run / f'.{LAST}.abc.tmp').write_bytes(b'half')
    shutil.copy(run / PREVIOUS, run / RECOVERY)  # older than last: it was about to be removed
    train(flags(image_folder, run, *ALL, '--resume'))
    assert compare_runs(whole, run) == []
    shutil.rmtree(run / 'abandoned')  # holds that file
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in whole.iterdir())


def test_a_changed_recipe_is_told_field_by_field_and_needs_a_flag(whole, image_folder, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / 'run')
    changed = flags(image_folder, run, *ALL, '--lr', '0.02', '--epochs', '3', '--weight-decay', '0.5')
    with pytest.raises(UsageError) as e:
        train([*changed, '--resume'])
    for part in ('lr: 0.05 -> 0.02', 'epochs: 2 -> 3', 'weight_decay: 0.0001 -> 0.5', '--allow-recipe-change'):
        assert part in str(e.value)
    assert 'batch_size' not in str(e.value) and len(str(e.value).splitlines()) <= 3
    train([*changed, '--resume', '--allow-recipe-change'])
    last = load_checkpoint(run / LAST)
    assert 'resuming with a changed recipe' in capsys.readouterr().out
    assert [r['epoch'] for r in last['rows']] == [0, 1, 2] and 0 < last['rows'][2]['lr'] < 0.005  # near the new end
    assert {g['weight_decay'] for g in last['optimizer']['param_groups']} == {0., 0.5}


@pytest.mark.parametrize('then, now, lacks', [
    (('sgd',), ('lion',), 'lion keeps exp_avg of each parameter, and it has momentum_buffer of --opt sgd'),
    (('adamw',), ('adamw', '--opt-kwargs', 'amsgrad=True'), 'max_exp_avg_sq'),
    (('sgd',), ('momentum',), None), (('adam',), ('adamw',), None), (('adamw',), ('lion',), None)])
def test_a_changed_optimizer_is_refused_before_its_first_update_fails(image_folder, tmp_path, then, now, lacks):
    run, small = tmp_path / 'run', ('--model-kwargs', 'layers=(1,1,1)', '--img-size', '8', '--batch-size', '16')
    train(flags(image_folder, run, *small, '--epochs', '1', '--opt', *then))
    before = {p.name: p.stat().st_mtime_ns for p in run.iterdir() if p.name != '.lock'}
    again = flags(image_folder, run, *small, '--epochs', '2', '--opt', *now, '--resume', '--allow-recipe-change')
    if lacks is None:
        train(again)
        return
    with pytest.raises(UsageError, match='the checkpoint is of another optimizer: ') as e:
        train(again)
    assert lacks in str(e.value)
    assert {p.name: p.stat().st_mtime_ns for p in run.iterdir() if p.name != '.lock'} == before


def test_a_schedule_on_updates_ends_with_the_run_whatever_the_batch(image_folder, tmp_path, monkeypatch):
    argv = flags(image_folder, tmp_path / 'run', '--img-size', '16', '--no-aug', '--sched-on-updates')
    stopped(monkeypatch, (1, 0), [*argv, '--batch-size', '8'])  # 48 images: 6 updates an epoch, and then 12
    train([*argv, '--batch-size', '4', '--resume', '--allow-recipe-change'])
    last = load_checkpoint(tmp_path / 'run' / LAST)
    assert (last['updates'], last['updates_per_epoch']) == (24, 12)
    assert last['rows'][1]['lr'] == pytest.approx(0.025 * (1 + math.cos(math.pi * 23 / 24)))


def test_flags_that_change_nothing_may_differ(whole, image_folder, tmp_path):
    run = shutil.copytree(whole, tmp_path / 'elsewhere')
    train(flags(image_folder, run, *ALL, '-j', '1', '--no-device-data', '--log-interval', '3', '--on-nan', 'rollback',
                '1', '--resume'))
    assert compare_runs(whole, run) == []


def test_a_checkpoint_file_can_be_gone_back_to(whole, image_folder, tmp_path):
    run = shutil.copytree(whole, tmp_path / 'run')
    train(flags(image_folder, run, *ALL, '--resume', str(run / 'checkpoint-0.pth.tar')))
    assert compare_runs(whole, run) == []


def test_the_middle_of_an_epoch_can_be_gone_on_from_in_another_directory(
        whole, image_folder, tmp_path, monkeypatch):
    stopped(monkeypatch, (1, 5), flags(image_folder, tmp_path / 'first', *ALL))
    more = ('--resume', str(tmp_path / 'first' / RECOVERY))
    stopped(monkeypatch, (1, 4), flags(image_folder, tmp_path / 'run', *ALL, *more))
    last = load_checkpoint(tmp_path / 'run' / LAST)
    assert (last['epoch'], last['position']['step']) == (0, 0) and last['metrics']
    assert load_checkpoint(tmp_path / 'run' / RECOVERY)['position']['step'] == 4
    train(flags(image_folder, tmp_path / 'run', *ALL, '--resume'))
    assert compare_runs(whole, tmp_path / 'run') == []


def test_a_run_gone_back_into_its_first_epoch_has_no_rows(whole, image_folder, tmp_path, monkeypatch):
    stopped(monkeypatch, (0, 3), flags(image_folder, tmp_path / 'first', *ALL))
    run = shutil.copytree(whole, tmp_path / 'run')
    more = ('--resume', str(tmp_path / 'first' / RECOVERY))
    stopped(monkeypatch, (0, 2), flags(image_folder, run, *ALL, *more))
    assert not [name for name in ('summary.csv', 'timing.csv', CURVES) if (run / name).exists()]
    train(flags(image_folder, run, *ALL, '--resume'))
    assert compare_runs(whole, run) == []


@pytest.mark.parametrize('recorded', [True, False])
def test_a_run_of_a_version_with_another_default_start_goes_on(image_folder, tmp_path, recorded):
    """Also one of a version that did not record the start: it knew the paper's alone."""
    whole, run = tmp_path / 'whole', tmp_path / 'run'
    train(flags(image_folder, whole, *ALL, '--model-kwargs', 'start=paper'))
    first = load_checkpoint(whole / 'checkpoint-0.pth.tar')
    first['args']['model_kwargs'] = {}
    assert first['model_args'].pop('start') == 'paper'
    if recorded:
        first['model_args']['start'] = 'paper'
    run.mkdir()
    save_checkpoint(run / LAST, first)
    train(flags(image_folder, run, *ALL, '--resume'))
    expected, found = (load_checkpoint(path / LAST) for path in (whole, run))
    assert found['model_args'] == expected['model_args'] and found['rows'] == expected['rows']
    torch.testing.assert_close(found['state_dict'], expected['state_dict'], atol=0, rtol=0)
    torch.testing.assert_close(found['state_dict_ema'], expected['state_dict_ema'], atol=0, rtol=0)


def test_a_checkpoint_of_an_earlier_version_gives_its_weights_alone(whole, image_folder, tmp_path):
    old = {k: v for k, v in load_checkpoint(whole / LAST).items() if k not in ('schema', 'position')}
    (tmp_path / 'run').mkdir()
    torch.save(old, tmp_path / 'run' / LAST)
    weights = load_checkpoint(tmp_path / 'run' / LAST)['state_dict']
    assert torch.equal(weights['fc.weight'], old['state_dict']['fc.weight'])
    with pytest.raises(IEBNZooError, match='earlier version'):
        train(flags(image_folder, tmp_path / 'run', *ALL, '--resume'))


@pytest.mark.parametrize('begin', [None, (1, 1)])
def test_a_full_disk_stops_the_run_and_the_last_good_state_survives(
        whole, image_folder, tmp_path, monkeypatch, begin):
    run = tmp_path / 'run'
    if begin is not None:
        stopped(monkeypatch, begin, flags(image_folder, run, *ALL))
    before = {p.name: p.read_bytes() for p in run.glob('*.pth.tar')}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # a checkpoint is larger, the logs are not
    try:
        with pytest.raises(IEBNZooError, match=r'cannot write .*pth\.tar: File too large'):
            train(flags(image_folder, run, *ALL, *(['--resume'] if begin else [])))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_bytes() for p in run.glob('*.pth.tar')} == before and not list(run.glob('.*.tmp'))
    train(flags(image_folder, run, *ALL, '--resume' if begin else '--overwrite'))
    assert compare_runs(whole, run) == []


def test_a_read_only_directory_is_a_short_message(whole, image_folder, tmp_path):
    run = shutil.copytree(whole, tmp_path / 'run')
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    no_privileges = []
    if os.geteuid() == 0:  # root writes where it likes, unless it gives up its capabilities
        no_privileges = ['setpriv', '--inh-caps=-all', '--bounding-set=-all']
        if shutil.which('setpriv') is None:
            pytest.skip('runs as root, and there is no setpriv to become less')
    run.chmod(0o555)
    try:
        done = subprocess.run(
            [*no_privileges, sys.executable, '-m', 'iebn_zoo', 'train', *flags(image_folder, run, *ALL), '--resume'],
            capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS='1'), timeout=300)
    finally:
        run.chmod(0o755)
    assert done.returncode == 1 and 'Permission denied' in done.stderr and 'Traceback' not in done.stderr
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_killed_at_random_moments_the_run_ends_with_the_same_bits(tmp_path):
    # python -m tests.training.kill_and_resume does it more often, with loader processes, with two processes
    result = kill_and_resume(tmp_path, kills=2, seed=5, workers=0, epochs=2, images=16)
    assert result['differences'] == [] and sum(result['hits'].values()) == 2
