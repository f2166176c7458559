"""The cells of a grid: which runs there are, where they are, and how far each has come."""
import argparse
import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import yaml

from iebn_zoo.data.images import split_path
from iebn_zoo.data.named import is_folder
from iebn_zoo.studies.compare.arguments import recipe_difference, shared_flags
from iebn_zoo.studies.compare.arms import Arm
from iebn_zoo.training.run import directory as run_directory
from iebn_zoo.training.run import records
from iebn_zoo.training.run.checkpoint import BEST, LAST
from iebn_zoo.util.csv_files import CSVError, read_csv
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.ranking import best_row, ranked_value

TESTED = {LAST: 'test_last.json', BEST: 'test_best.json'}
_SafeLoader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)  # the same in C, which not every build of PyYAML has
_SEED = re.compile(r'seed(\d+)')
_DAMAGE = (OSError, ValueError, KeyError, TypeError, CSVError)


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        arm: The network.
        seed: Of the run.
        run: Its directory.
        summary: Name of its log.
    """

    arm: Arm
    seed: int
    run: Path
    summary: str = records.SUMMARY

    def __str__(self) -> str:
        return f'{self.arm.name} seed {self.seed}'

    def rows(self) -> List[records.Row]:
        """Return the finished epochs; none if summary.csv is damaged, because the resumed run writes it anew."""
        try:
            return self._read()
        except _DAMAGE:
            return []

    def damage(self) -> Optional[str]:
        """Tell in one line what is wrong with summary.csv, or return None."""
        try:
            self._read()
        except _DAMAGE as e:
            return f'{self.run / self.summary} cannot be read: {e}'
        return None

    def _read(self) -> List[records.Row]:
        try:
            rows = records.read_summary(self.run, self.summary)
        except (FileNotFoundError, NotADirectoryError):
            return []
        for number, row in enumerate(rows):
            if not {'epoch', 'eval_loss', 'eval_top1'} <= row.keys() or row['epoch'] != number:
                raise ValueError(f'line {number + 2} is no row of epoch {number}')
        return rows

    def seconds(self) -> Optional[float]:
        """Return the seconds of training over the finished epochs; None if no log has them."""
        try:
            return sum(row['seconds'] for row in self._timing())
        except _DAMAGE:
            return None

    def images(self) -> float:
        """Count the training images of the finished epochs, each as often as it was used."""
        try:
            return sum(row['seconds'] * row['images_per_second'] for row in self._timing())
        except _DAMAGE:
            return 0.0

    def _timing(self) -> Sequence[Dict[str, Any]]:
        try:
            return read_csv(self.run / records.TIMING, {})
        except FileNotFoundError:
            rows = self._read()  # older runs have the times in the summary
            if not rows:
                raise
            return rows

    def args(self) -> Dict[str, Any]:
        """Return the flags of the run from args.yaml; none if it is missing or damaged."""
        try:
            args = yaml.load((self.run / records.ARGS).read_text(encoding='utf-8'), Loader=_SafeLoader)
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return args if isinstance(args, dict) else {}

    def check_arm(self, shared: Dict[str, Any]) -> None:
        """Raise UsageError if the directory holds a run of another network.

        Args:
            shared: Arguments of the model that all arms have.
        """
        there = self.args()
        if 'model' not in there:
            return
        found = {'model': there['model'], 'model_kwargs': there.get('model_kwargs') or {}}
        asked = {'model': self.arm.model, 'model_kwargs': _as_yaml(self.arm.model_kwargs(shared))}
        if found != asked:
            raise UsageError(
                f'{self.run} holds a run of {described(found)}, not of {described(asked)}.\n'
                f'Give the arm another name, or the grid another --output.')

    def check_recipe(self, resolved: argparse.Namespace) -> None:
        """Raise UsageError if the directory holds a run of another seed or recipe, whoever has trained it.

        Args:
            resolved: The flags of ``train`` that the runs of the grid share.
        """
        there = self.args()
        if 'model' not in there:
            return
        asked = dict(shared_flags(resolved), seed=self.seed)
        difference = recipe_difference(there, _as_yaml(asked))
        if difference:
            raise UsageError(
                f'{self.run} holds a run that is none of this grid: {difference}.\n'
                f'Expected a run by the flags of the grid. Move it out of {self.run.parents[1]}, and the same command '
                f'trains the run of the grid.')

    def begun(self) -> bool:
        """Tell whether the directory holds files of a run, which training writes once it has accepted the flags."""
        return self.run.is_dir() and bool(run_directory.run_files(self.run))

    def trained(self, epochs: int) -> bool:
        """Tell whether the last of ``epochs`` is in summary.csv."""
        rows = self.rows()
        return bool(rows) and rows[-1]['epoch'] >= epochs - 1

    def diverged(self) -> bool:
        """Tell whether the loss of the last epoch in summary.csv, of the weights that rank epochs, is not finite."""
        rows = self.rows()
        return bool(rows) and math.isnan(ranked_value(rows[-1], 'top1'))

    def train_command(self, flags: Sequence[str], shared: Dict[str, Any]) -> List[str]:
        """Return the command that trains the run or continues it; ``shared`` as in ``check_arm``."""
        start = ['--overwrite'] if self.begun() else []  # a run that stopped before its first checkpoint starts anew
        if list(self.run.glob('*.pth.tar')):
            start = ['--resume']
        return [sys.executable, '-m', 'iebn_zoo', 'train', *flags, *self.arm.flags(shared),
                '--seed', str(self.seed), '--output', str(self.run), *start]

    def test_command(self, checkpoint: str, resolved: Any) -> Optional[List[str]]:
        """Return the command that measures one of ``TESTED`` on the test split; None if that is done, or if the run has
        diverged: its last weights, or all that it had, have nothing to measure.

        It measures the weights by which the best epoch was chosen: those of the moving average if there is one.
        """
        rows = self.rows()
        best = best_row(rows, resolved.eval_metric)
        shown = best if checkpoint == BEST else rows[-1] if rows else None
        if shown is not None and math.isnan(ranked_value(shown, 'top1')):
            return None
        split, done = _test_split(resolved), self.test_result(checkpoint)
        if done is not None and (done.get('val_split'), done.get('use_ema', False)) == (split, resolved.model_ema):
            return None
        return [sys.executable, '-m', 'iebn_zoo', 'validate', '--checkpoint', str(self.run / checkpoint),
                '--data-dir', resolved.data_dir, '--dataset', resolved.dataset, '--device', resolved.device,
                '--batch-size', str(resolved.batch_size), '--workers', str(resolved.workers),
                *(['--val-split', split] if split else []), *(['--use-ema'] if resolved.model_ema else []),
                *(['--skip-corrupt'] if resolved.skip_corrupt else []),
                '--results-file', str(self.run / TESTED[checkpoint])]

    def test_result(self, checkpoint: str) -> Optional[Dict[str, Any]]:
        """Read the result of ``test_command``; None if it is missing, damaged, or older than the checkpoint."""
        path, measured = self.run / TESTED[checkpoint], self.run / checkpoint
        try:
            if measured.exists() and measured.stat().st_mtime_ns > path.stat().st_mtime_ns:
                return None
            result = json.loads(path.read_text(encoding='utf-8'))
            return dict(result, top1=float(result['top1']))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _test_split(resolved: Any) -> Optional[str]:
    # a folder may have val/ beside test/; training has then evaluated on val/
    if is_folder(resolved.dataset) and split_path(resolved.data_dir, 'test') is not None:
        return 'test'
    return resolved.val_split


def found_cells(output: Path) -> List[Cell]:
    """Find the cells of all runs in a grid's directory, sorted by arm and seed."""
    found = []
    for run in output.glob('*/seed*'):
        number = _SEED.fullmatch(run.name)
        if number and run.is_dir():
            args = Cell(Arm('', ''), 0, run).args()
            arm = Arm(run.parent.name, str(args.get('model') or run.parent.name), args.get('model_kwargs') or {})
            found.append(Cell(arm, int(number[1]), run))
    return sorted(found, key=lambda cell: (cell.arm.name, cell.seed, cell.run.name))


def make_cells(arms: Sequence[Arm], seeds: Sequence[int], output: Path) -> List[Cell]:
    """Make the cells seed by seed, so that all arms are first compared with one seed."""
    return [Cell(arm, seed, output / arm.name / f'seed{seed}') for seed in seeds for arm in arms]


def trained_arms(arms: Sequence[Arm], shared: Dict[str, Any]) -> List[Arm]:
    """Return arms of a call as ``found_cells`` finds them in their runs: with all arguments of their model.

    Args:
        arms: Of the call.
        shared: Arguments of the model that all arms have.
    """
    return [Arm(arm.name, arm.model, _as_yaml(arm.model_kwargs(shared))) for arm in arms]


def _as_yaml(values: Dict[str, Any]) -> Dict[str, Any]:
    return yaml.safe_load(yaml.safe_dump(values))  # YAML knows no tuples


def described(arm: Dict[str, Any]) -> str:
    """Write ``model`` and ``model_kwargs`` of a run as ``--arm`` takes them: ``iebn_resnet20_cifar start=bn``."""
    return ' '.join([arm['model'], *(f'{k}={v}' for k, v in arm['model_kwargs'].items())])
