"""The cells of a grid: which runs there are, where they lie, and how far each is."""
import csv
import difflib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import timm

import iebn_zoo  # noqa: F401  registers the models
from iebn_zoo.errors import UsageError
from iebn_zoo.training import log, run_directory, state
from iebn_zoo.training.images import split_path

NORMS = ('iebn', 'bn', 'se')
TESTED = {state.LAST: 'test_last.json', state.BEST: 'test_best.json'}
_DAMAGE = (OSError, ValueError, KeyError, TypeError, csv.Error)


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        model: Registered name.
        seed: Of the run.
        run: Its directory.
    """

    model: str
    seed: int
    run: Path

    def __str__(self) -> str:
        return f'{self.model} seed {self.seed}'

    def rows(self) -> List[log.Row]:
        """The finished epochs; none where summary.csv is damaged: the resumed run writes it anew."""
        try:
            return self._read()
        except _DAMAGE:
            return []

    def damage(self) -> Optional[str]:
        """What is wrong with summary.csv, in a line, or None."""
        try:
            self._read()
        except _DAMAGE as e:
            return f'{self.run / log.SUMMARY} cannot be read: {e}'
        return None

    def _read(self) -> List[log.Row]:
        try:
            rows = log.read_summary(self.run)
        except (FileNotFoundError, NotADirectoryError):
            return []
        for number, row in enumerate(rows):
            if not {'epoch', 'eval_loss', 'eval_top1'} <= row.keys() or row['epoch'] != number:
                raise ValueError(f'line {number + 2} is no row of epoch {number}')
        return rows

    def trained(self, epochs: int) -> bool:
        """Whether the last of ``epochs`` is in summary.csv."""
        rows = self.rows()
        return bool(rows) and rows[-1]['epoch'] >= epochs - 1

    def train_command(self, flags: Sequence[str]) -> List[str]:
        """The process that trains it, or goes on with it."""
        if list(self.run.glob('*.pth.tar')):
            start = ['--resume']
        else:  # stopped before the first checkpoint: there is nothing to go on from, and nothing to lose
            start = ['--overwrite'] if self.run.is_dir() and run_directory.run_files(self.run) else []
        return [sys.executable, '-m', 'iebn_zoo', 'train', *flags, '--model', self.model, '--seed', str(self.seed),
                '--output', str(self.run), *start]

    def test_command(self, checkpoint: str, resolved: Any) -> Optional[List[str]]:
        """The process that measures one of ``TESTED`` on the test split; None where that is done.

        It measures the weights that chose the best epoch: those of the moving average where there is one.
        """
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
        """What ``test_command`` has left; None where it is missing, damaged, or older than the checkpoint."""
        path, measured = self.run / TESTED[checkpoint], self.run / checkpoint
        try:
            if measured.exists() and measured.stat().st_mtime_ns > path.stat().st_mtime_ns:
                return None
            result = json.loads(path.read_text(encoding='utf-8'))
            return dict(result, top1=float(result['top1']))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _test_split(resolved: Any) -> Optional[str]:
    # a folder may have val/ beside test/, and then val/ is what training looked at
    if not resolved.dataset and split_path(resolved.data_dir, 'test') is not None:
        return 'test'
    return resolved.val_split


def model_names(model: Optional[str], norms: Optional[Sequence[str]], models: Optional[Sequence[str]]) -> List[str]:
    """Registered names from ``--model`` with ``--norms``, or from ``--models``.

    Raises:
        UsageError: Neither or both are given, or a name is not registered.
    """
    if bool(models) == bool(model and norms) or (models and (model or norms)):
        raise UsageError('which models?\nExpected --model NAME with --norms, such as --model resnet20_cifar '
                         '--norms bn iebn, or --models NAME NAME ...')
    names = list(models) if models else [_with_norm(model, norm) for norm in norms]
    for name in names:
        if not timm.is_model(name.split('.')[0]):
            near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else 'Expected a registered name of timm or ours.'
            raise UsageError(f'unknown model {name!r}.\n{hint}')
    return names


def _with_norm(model: str, norm: str) -> str:
    if norm not in NORMS:
        raise UsageError(f'--norms has {norm!r}, expected {", ".join(NORMS)}.')
    base = next((model[len(n) + 1:] for n in NORMS if model.startswith(f'{n}_')), model)
    if norm == 'iebn' or timm.is_model(f'{norm}_{base}'):
        return f'{norm}_{base}'
    return base if norm == 'bn' else f'se{base}'  # timm's names: resnet50 and seresnet50


def found_cells(output: Path) -> List[Cell]:
    """The cells of all runs that lie in a grid's directory, by model and seed."""
    found = [Cell(run.parent.name, int(run.name[len('seed'):]), run) for run in output.glob('*/seed*')
             if run.is_dir() and run.name[len('seed'):].isdigit()]
    return sorted(found, key=lambda cell: (cell.model, cell.seed))


def make_cells(models: Sequence[str], seeds: Sequence[int], output: Path) -> List[Cell]:
    """Seed by seed, so that after the first ones there is a whole comparison with one seed."""
    return [Cell(model, seed, output / model / f'seed{seed}') for seed in seeds for model in models]
