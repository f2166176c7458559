"""The way of a run: a plan writes nothing, building takes the directory, training fills it."""
import pytest
import torch

from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.training.engine.build import build
from iebn_zoo.training.engine.plan import make_plan
from iebn_zoo.training.run.lock import RunLock
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.processes import Processes
from tests.support.training.datasets import flags

CPU = torch.device('cpu')


def test_plan_build_train(image_folder, tmp_path):
    args = TrainSettings.from_flags(train_parser().parse_args(
        flags(image_folder, tmp_path / 'run', '--epochs', '1', '--img-size', '16')))
    plan = make_plan(args, CPU)
    assert (plan.num_classes, plan.epochs, plan.rollbacks_allowed, plan.extensions) == (3, 1, 0, [])
    assert list(tmp_path.iterdir()) == []
    lock = RunLock()
    try:
        run = build(plan, lock)
        assert [p.name for p in run.output.iterdir()] == ['.lock'] and run.fresh and run.rows == []
        run.train()
        assert len(run.rows) == 1 and (run.output / 'summary.csv').exists()
    finally:
        lock.release()


def test_an_error_of_the_first_process_is_raised():
    def fail():
        raise UsageError('no')

    processes = Processes(CPU)
    assert processes.on_first(lambda: 3) == 3
    with pytest.raises(UsageError, match='no'):
        processes.on_first(fail)
