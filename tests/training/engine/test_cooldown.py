"""--epochs is the length of the schedule; the cooldown comes behind it."""
import pytest

from iebn_zoo.commands.compare import _complete
from iebn_zoo.commands.train import main as train
from iebn_zoo.studies.compare.arms import Arm
from iebn_zoo.studies.compare.grid import Cell
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.optimizer import training_epochs
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.util.errors import UsageError
from tests.support.training.datasets import flags
from tests.training.config.test_schedule import KNOWN


@pytest.mark.parametrize('more', [(), ('--sched-on-updates',)])
def test_the_rate_stays_at_its_lowest_for_the_cooldown(image_folder, tmp_path, more):
    argv = flags(image_folder, tmp_path / 'run', '--cooldown-epochs', '2', '--min-lr', '0.001', '--img-size', '16',
                 '--batch-size', '24', *more)
    train(argv)
    rates = [row['lr'] for row in load_checkpoint(tmp_path / 'run' / LAST)['rows']]
    assert len(rates) == 4 and rates[2:] == [0.001, 0.001] and min(rates[:2]) > 0.001
    cell, resolved = Cell(Arm('a', 'iebn_resnet20_cifar'), 42, tmp_path / 'run'), train_parser().parse_args(argv)
    assert _complete(cell, resolved, False)
    resolved.cooldown_epochs = 3
    assert not _complete(cell, resolved, False)


@pytest.mark.parametrize('sched', KNOWN)
def test_without_a_cooldown_epochs_is_what_is_trained(sched):
    argv = ['--sched', sched, '--epochs', '7', '--warmup-epochs', '2', '--decay-epochs', '3']
    assert training_epochs(train_parser().parse_args(argv)) == 7


def test_a_schedule_without_an_end_has_no_cooldown():
    with pytest.raises(UsageError, match='--sched step has no cooldown'):
        training_epochs(train_parser().parse_args(['--sched', 'step', '--cooldown-epochs', '2']))
    with pytest.raises(UsageError, match='--sched nothing: '):
        training_epochs(train_parser().parse_args(['--sched', 'nothing']))
