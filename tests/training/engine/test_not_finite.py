"""A NaN or an infinity stops the run, or sends it back; it never reaches a checkpoint."""
import math

import pytest
import torch

from iebn_zoo.commands.train import main as train
from iebn_zoo.training.callbacks import base as extensions
from iebn_zoo.training.callbacks.base import Extension
from iebn_zoo.training.run.checkpoint import BEST, LAST, RECOVERY, load_checkpoint
from iebn_zoo.util.errors import IEBNZooError
from tests.support.training.datasets import flags
from tests.training.kill_and_resume import compare_runs

TINY = ('--img-size', '16', '--batch-size', '8', '--checkpoint-steps', '2', '--drop', '0.2', '--model-ema')


class Poison(Extension):
    """Sends images of NaN through the network with the batches ``at``: the batch statistics and the loss are NaN."""

    name, at = 'poison', ()

    @classmethod
    def from_args(cls, args):
        return cls()

    def companions(self, epoch, step):
        return torch.full((1, 3, 16, 16), math.nan) if (epoch, step) in self.at else None


@pytest.fixture
def poison(monkeypatch):
    monkeypatch.setattr(extensions, 'EXTENSIONS', ('tests.training.engine.test_not_finite:Poison',))
    return lambda *at: monkeypatch.setattr(Poison, 'at', at)


def finite(checkpoint):
    return all(t.isfinite().all() for key in ('state_dict', 'state_dict_ema') for t in checkpoint[key].values())


def test_it_stops_and_names_step_rate_and_checkpoint(image_folder, tmp_path, poison):
    poison((1, 3))
    with pytest.raises(IEBNZooError) as e:
        train(flags(image_folder, tmp_path / 'run', *TINY))
    message = str(e.value)
    assert len(message.splitlines()) <= 3
    for part in ('the loss is nan at step 3 of epoch 1', 'learning rate 0.025',
                 f'{RECOVERY} holds the last good state (epoch 1, step 2)', '--on-nan rollback'):
        assert part in message
    last, recovery = (load_checkpoint(tmp_path / 'run' / name) for name in (LAST, RECOVERY))
    assert last['epoch'] == 0 and recovery['position']['step'] == 2 and finite(last) and finite(recovery)


@pytest.mark.parametrize('workers', ['0', '1'])
def test_rollback_passes_over_the_suspects_and_is_repeatable(image_folder, tmp_path, poison, capsys, workers):
    poison((1, 3))
    runs = [tmp_path / name for name in ('a', 'b')]
    for run in runs:
        train(flags(image_folder, run, *TINY, '-j', workers, '--no-device-data', '--on-nan', 'rollback', '1'))
        err = capsys.readouterr().err
        assert 'the loss is nan at step 3 of epoch 1' in err and 'skips steps 2 to 3 (rollback 1 of 1)' in err
    last = load_checkpoint(runs[0] / LAST)
    # six updates in the first epoch, and in the second those of steps 0, 1, 4 and 5
    assert last['updates'] == 10 and last['skipped'] == [(1, 2, 3)] and last['rollbacks'] == 1 and finite(last)
    assert all(math.isfinite(v) for row in last['rows'] for v in row.values())
    assert compare_runs(*runs) == []


def test_a_stopped_run_can_be_resumed_with_a_rollback(image_folder, tmp_path, poison):
    poison((1, 3))
    train(flags(image_folder, tmp_path / 'whole', *TINY, '--on-nan', 'rollback', '1'))
    with pytest.raises(IEBNZooError):
        train(flags(image_folder, tmp_path / 'run', *TINY))
    train(flags(image_folder, tmp_path / 'run', *TINY, '--on-nan', 'rollback', '1', '--resume'))
    assert compare_runs(tmp_path / 'whole', tmp_path / 'run') == []


def test_rollbacks_are_counted(image_folder, tmp_path, poison):
    poison((0, 1), (0, 4))
    with pytest.raises(IEBNZooError, match='step 4 of epoch 0.*\n.*after 1 rollbacks'):
        train(flags(image_folder, tmp_path / 'run', *TINY, '--on-nan', 'rollback', '1'))
    train(flags(image_folder, tmp_path / 'other', *TINY, '--epochs', '1', '--on-nan', 'rollback', '2'))
    assert load_checkpoint(tmp_path / 'other' / LAST)['rollbacks'] == 2


def test_weights_are_looked_at_before_a_checkpoint_is_written(image_folder, tmp_path):
    # one update at this rate: the loss before it is finite, the weights after it are not
    with pytest.raises(IEBNZooError, match='the weights are NaN or infinite at step 0 of epoch 0'):
        train(flags(image_folder, tmp_path / 'run', *TINY, '--batch-size', '48', '--lr', '1e38', '--weight-decay',
                    '1000'))
    assert finite(load_checkpoint(tmp_path / 'run' / LAST))


class Overflow(Extension):
    """Makes one gradient infinite from the first update on, while the loss stays finite."""

    name = 'overflow'

    @classmethod
    def from_args(cls, args):
        return cls()

    def prepare_model(self, model):
        model.fc.weight.register_hook(lambda grad: grad * math.inf)


def test_a_run_of_which_float16_skips_every_update_stops(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(extensions, 'EXTENSIONS', ('tests.training.engine.test_not_finite:Overflow',))
    with pytest.raises(IEBNZooError, match=r'the loss scale is 3\.05e-05, .* at step 6 of epoch 1, .*\n.*last') as e:
        train(flags(image_folder, tmp_path / 'run', '--img-size', '16', '--batch-size', '2', '--no-aug', '--amp',
                    '--amp-dtype', 'float16'))
    assert len(str(e.value).splitlines()) <= 3


class PoisonedEvaluation(Extension):
    """Makes the outputs of the network NaN in the evaluation of the epochs ``at``."""

    name, at, epoch = 'poisoned_evaluation', (), 0

    @classmethod
    def from_args(cls, args):
        return cls()

    def prepare_model(self, model):
        model.register_forward_hook(
            lambda module, _, logits: logits if module.training or self.epoch not in self.at else logits * math.nan)

    def epoch_start(self, run, epoch, step):
        self.epoch = epoch


def test_an_evaluation_that_is_not_finite_is_no_best_epoch(image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(extensions, 'EXTENSIONS', ('tests.training.engine.test_not_finite:PoisonedEvaluation',))
    tiny = ('--img-size', '16', '--batch-size', '8', '--no-device-data', '-j', '0')
    monkeypatch.setattr(PoisonedEvaluation, 'at', (0,))
    train(flags(image_folder, tmp_path / 'run', *tiny))
    assert 'warning: epoch 0: the loss of the evaluation is nan' in capsys.readouterr().err
    assert load_checkpoint(tmp_path / 'run' / BEST)['epoch'] == 1
    monkeypatch.setattr(PoisonedEvaluation, 'at', (0, 1))
    with pytest.raises(IEBNZooError, match='finite after none of 2 epochs'):
        train(flags(image_folder, tmp_path / 'lost', *tiny))
    assert (tmp_path / 'lost' / 'summary.csv').exists()


def test_it_goes_back_to_the_checkpoint_of_another_recipe_with_the_new_flags(image_folder, tmp_path, poison):
    run = tmp_path / 'run'
    train(flags(image_folder, run, *TINY, '--epochs', '1'))
    poison((1, 1))  # before the first checkpoint under the new flags
    train(flags(image_folder, run, *TINY, '--weight-decay', '0.5', '--on-nan', 'rollback', '1', '--resume',
                '--allow-recipe-change'))
    last = load_checkpoint(run / LAST)
    assert last['rollbacks'] == 1 and {g['weight_decay'] for g in last['optimizer']['param_groups']} == {0., 0.5}
    assert [(r['epoch'], r['args']['epochs']) for r in last['earlier_recipes']] == [(1, 1)]
