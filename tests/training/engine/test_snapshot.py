"""What a checkpoint carries besides weights, and where a run goes on if its processes change."""
import argparse
import math
from types import SimpleNamespace

import pytest
import torch
from timm.scheduler import CosineLRScheduler, PlateauLRScheduler

from iebn_zoo.training.engine.determinism import deterministic
from iebn_zoo.training.engine.snapshot import _load_scheduler, _position, _restore_schedule, _scheduler_state
from iebn_zoo.training.run.resume import machine_changes, recipe_changes
from iebn_zoo.util.processes import Processes


def session(world=1, rank=0, batch_size=8, accumulate=1):
    args = argparse.Namespace(batch_size=batch_size, grad_accum_steps=accumulate)
    return SimpleNamespace(processes=Processes(torch.device('cpu'), rank, world), args=args)


# two processes have done 5 batches of 8 images each: 80 images of the epoch's order
CHECKPOINT = dict(position=dict(epoch=3, step=5, images=40, loss_sum=1., seconds=2.), loss_sums=[1., 2.], batch_size=8)


@pytest.mark.parametrize('now, step, loss_sum, images', [
    (session(2, rank=1), 5, 2., 40),
    (session(1), 10, 3., 80),
    (session(4), 2, 0.75, 20),
    (session(1, batch_size=16), 5, 3., 80),
    (session(1, accumulate=4), 8, 3., 80),
])
def test_other_processes_go_on_where_the_images_end(now, step, loss_sum, images):
    position = _position(now, CHECKPOINT)
    assert (position.epoch, position.step, position.loss_sum, position.images) == (3, step, loss_sum, images)


@pytest.mark.filterwarnings('ignore:PlateauLRScheduler is deprecated')
def test_plateau_remembers_how_long_it_has_waited():
    def scheduler():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.)
        return PlateauLRScheduler(optimizer, decay_rate=0.1, patience_t=2, mode='max'), optimizer

    (whole, optimizer), (resumed, other) = scheduler(), scheduler()
    metrics = [5., 4., 4., 4., 4.]
    for epoch in range(2):
        whole.step(epoch + 1, metrics[epoch])
    _load_scheduler(resumed, _scheduler_state(whole))
    for epoch in range(2, 5):
        whole.step(epoch + 1, metrics[epoch])
        resumed.step(epoch + 1, metrics[epoch])
        assert other.param_groups[0]['lr'] == optimizer.param_groups[0]['lr']
    assert other.param_groups[0]['lr'] == pytest.approx(0.1)


def scheduled(make, updates_per_epoch=6, epoch=0, **args):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = make(optimizer)
    trainer = SimpleNamespace(optimizer=optimizer, scheduler=scheduler, updates=0)
    return SimpleNamespace(trainer=trainer, updates_per_epoch=updates_per_epoch, position=SimpleNamespace(epoch=epoch),
                           args=argparse.Namespace(**{'lr': 0.1, 'eval_metric': 'top1', **args}))


def rate(session):
    return session.trainer.optimizer.param_groups[0]['lr']


@pytest.mark.parametrize('new_recipe', [False, True])  # half the processes, or half the batch
@pytest.mark.parametrize('now, updates', [(6, 15), (12, 30), (3, 8)])
def test_a_schedule_on_updates_goes_on_at_the_same_share_of_the_run(new_recipe, now, updates):
    s = scheduled(lambda o: CosineLRScheduler(o, t_initial=4 * now, t_in_epochs=False), now, epoch=2)
    at = 0.05 * (1 + math.cos(math.pi * 15 / 24))
    fresh = [dict(lr=0.1, initial_lr=0.1)]
    s.trainer.optimizer.param_groups[0]['lr'] = at
    _restore_schedule(s, dict(updates=15, updates_per_epoch=6, scheduler={}), fresh if new_recipe else None)
    assert s.trainer.updates == updates
    assert rate(s) == pytest.approx(0.05 * (1 + math.cos(math.pi * updates / (4 * now))))


def test_a_checkpoint_without_updates_per_epoch_goes_on_where_it_was():
    s = scheduled(lambda o: CosineLRScheduler(o, t_initial=24, t_in_epochs=False), epoch=2)
    _restore_schedule(s, dict(updates=15, scheduler={}), None)
    assert s.trainer.updates == 15


@pytest.mark.filterwarnings('ignore:PlateauLRScheduler is deprecated')
@pytest.mark.parametrize('now, expected', [
    (dict(), 0.01), (dict(lr=0.05), 0.05), (dict(eval_metric='loss'), 0.01)])
def test_plateau_keeps_its_rate_and_its_memory_under_a_changed_recipe(now, expected):
    then = scheduled(lambda o: PlateauLRScheduler(o, decay_rate=0.1, patience_t=2, mode='max'))
    for epoch, metric in enumerate([5., 4., 4., 4., 4.]):
        then.trainer.scheduler.step(epoch + 1, metric)
    assert rate(then) == pytest.approx(0.01)
    checkpoint = dict(updates=30, scheduler=_scheduler_state(then.trainer.scheduler), args=vars(then.args))
    s = scheduled(lambda o: PlateauLRScheduler(o, decay_rate=0.5, patience_t=3, mode='max'), epoch=5, **now)
    s.trainer.optimizer.param_groups[0]['lr'] = rate(then)
    _restore_schedule(s, checkpoint, [dict(lr=s.args.lr, initial_lr=s.args.lr)])
    assert rate(s) == pytest.approx(expected)
    inner = s.trainer.scheduler.lr_scheduler
    assert (inner.factor, inner.patience) == (0.5, 3)  # the flags'
    remembered = (5., then.trainer.scheduler.lr_scheduler.num_bad_epochs)
    assert (inner.best, inner.num_bad_epochs) == ((-math.inf, 0) if 'eval_metric' in now else remembered)


@pytest.mark.filterwarnings('ignore:PlateauLRScheduler is deprecated')
def test_plateau_takes_a_changed_scale_of_a_group():
    s = scheduled(lambda o: PlateauLRScheduler(o, decay_rate=0.1, patience_t=2, mode='max'), epoch=5)
    checkpoint = dict(updates=30, scheduler=_scheduler_state(s.trainer.scheduler), args=vars(s.args))
    s.trainer.optimizer.param_groups[0].update(lr=0.1 * 0.01 * 10, lr_scale=10)  # it has reached 0.01 of its rate
    _restore_schedule(s, checkpoint, [dict(lr=0.1, initial_lr=0.1, lr_scale=5)])
    assert rate(s) == pytest.approx(0.1 * 0.01 * 5)


def test_changes_are_told_where_they_matter():
    then, defaults = dict(lr=0.1, workers=1, gone=3), dict(lr=0.1, workers=1, new=None)
    assert recipe_changes(then, dict(lr=0.1, workers=8, new=None), defaults) == []
    assert recipe_changes(then, dict(lr=0.2, workers=8, new=5), defaults) == ['lr: 0.1 -> 0.2', 'new: None -> 5']
    assert machine_changes(dict(processes=2, torch='a'), dict(processes=1, torch='a')) == ['processes: 2 -> 1']


def test_deterministic_is_left_as_it_was_found():
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
