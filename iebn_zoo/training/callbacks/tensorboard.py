"""``--log-tensorboard``: the columns of summary.csv as TensorBoard's scalars."""
import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional

from iebn_zoo.training.callbacks.base import Extension
from iebn_zoo.util.command_line.flags import Switch
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.resources import install_line

if TYPE_CHECKING:
    from iebn_zoo.training.engine.run import Run

DIRECTORY = 'tensorboard'


class TensorBoard(Extension):
    """Writes event files into the run's ``tensorboard`` directory, from the first process.

    A step is an epoch. A resumed run marks the earlier events as void and writes the epochs of its checkpoint again: a
    killed process may have written too few of them, or one too many.
    """

    name = 'tensorboard'
    free_flags = ('log_tensorboard',)

    def __init__(self) -> None:
        self.writer: Any = None

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument_group('logs').add_argument(
            '--log-tensorboard', action=Switch, help=f'also write the columns of summary.csv for TensorBoard, '
            f'into RUN/{DIRECTORY}')

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Optional['TensorBoard']:
        if not args.log_tensorboard:
            return None
        _writer_class()
        return cls()

    def run_start(self, run: 'Run') -> None:
        if run.rank != 0:
            return
        directory = Path(run.output) / DIRECTORY
        try:
            self.writer = _writer_class()(str(directory), purge_step=0)
        except OSError as e:
            raise IEBNZooError(f'cannot write {directory}: {e.strerror or e}.\nGive --output a writable place.') from e
        for row in run.rows:
            self.epoch_written(run, row)

    def epoch_written(self, run: 'Run', row: Dict[str, Any]) -> None:
        if self.writer is None:
            return
        for column, value in row.items():
            if column != 'epoch':
                self.writer.add_scalar(_tag(column), value, row['epoch'])
        self.writer.flush()

    def close(self, run: 'Run') -> None:
        if self.writer is not None:
            self.writer.close()


def _tag(column: str) -> str:
    # TensorBoard groups by the part before a slash: loss/train beside loss/eval, gate_mean/stage1 and so on
    for kind in ('gate_mean', 'gate_spread', 'gate_instance_spread'):
        if column.startswith(f'{kind}_'):
            return f'{kind}/{column[len(kind) + 1:]}'
    split, _, name = column.rpartition('_')
    return f'{name}/{split}' if split.split('_')[0] in ('train', 'eval') else column


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as e:
        raise UsageError("--log-tensorboard needs the package tensorboard, which is not installed.\n"
                         f"Run: {install_line('tensorboard')}") from e
    return SummaryWriter
