"""What a checkpoint carries besides weights, and where a run goes on if its processes change."""
import argparse
from types import SimpleNamespace

import pytest
import torch
from timm.scheduler import PlateauLRScheduler

from iebn_zoo.training.determinism import deterministic
from iebn_zoo.training.distributed import Processes
from iebn_zoo.training.resume import machine_changes, recipe_changes
from iebn_zoo.training.snapshot import _load_scheduler, _position, _scheduler_state


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
