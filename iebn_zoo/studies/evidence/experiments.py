"""Finds the experiments below a directory: folders whose runs lie in ARM/seedN or in ARM."""
import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from iebn_zoo.studies.compare.arguments import recipe_difference, shared_flags, with_defaults
from iebn_zoo.studies.compare.arms import Arm
from iebn_zoo.studies.compare.checks import check_distinct, check_network, check_seed
from iebn_zoo.studies.compare.grid import Cell
from iebn_zoo.studies.compare.notes import NOTES, ArmNotes, Notes, read_notes
from iebn_zoo.studies.compare.report import warn_if_diverged
from iebn_zoo.studies.compare.results import Row, arm_rows, run_row
from iebn_zoo.training.config.optimizer import training_epochs
from iebn_zoo.training.run.records import SUMMARY
from iebn_zoo.util.errors import UsageError

SOURCE_SUMMARY = 'source_summary.csv'  # in the export of a folded network: the log of the network that was folded
_START = ('initial_checkpoint', 'pretrained')
_SEED = re.compile(r'seed(\d+)')


@dataclass(frozen=True)
class LoggedRun:
    """A run whose log is there.

    Attributes:
        cell: Its files.
        seed: Of the run; None where neither the directory's name nor args.yaml says it.
        args: Its flags, those of today's ``train`` at their defaults where the run does not know them; None without
            args.yaml.
        epochs: Of a complete run; None where nothing says it.
    """

    cell: Cell
    seed: Optional[int]
    args: Optional[Dict[str, Any]]
    epochs: Optional[int]

    @property
    def log(self) -> Path:
        return self.cell.run / self.cell.summary

    def row(self) -> Row:
        """Make the run's row as ``compare`` makes it; ``complete`` is None where nothing says how long it was to be."""
        row = run_row(self.cell, self.epochs or 0, self.cell.run, (self.args or {}).get('eval_metric', 'top1'))
        row.update(seed=self.seed, complete=None if self.epochs is None else row['complete'])
        return row


@dataclass(frozen=True)
class Experiment:
    """The runs of one folder.

    Attributes:
        name: Path of the folder below the directory that was searched; the name of that directory for itself.
        directory: The folder.
        notes: Of its experiment.yaml.
        runs: In the order of the notes, then by arm and seed.
    """

    name: str
    directory: Path
    notes: Notes
    runs: Tuple[LoggedRun, ...]

    def arms(self) -> List[str]:
        """Return the names of the arms, in the order of the runs."""
        return list(dict.fromkeys(run.cell.arm.name for run in self.runs))

    def arm_rows(self, baseline: Optional[str] = None) -> Dict[str, Row]:
        """Make the rows of ``compare``'s results.csv by arm, over the complete runs.

        Args:
            baseline: Arm that differences are taken to; None for that of the notes, or else the first of BatchNorm.

        Raises:
            UsageError: The runs of an arm are not of one recipe.
        """
        for arm in self.arms():
            self.check_recipe([arm])
        first = next((arm for arm in self.arms() if self.notes.norm(arm) == 'bn'), None)
        rows = arm_rows([run.row() for run in self.runs], baseline or self.notes.baseline or first)
        return {row['arm']: row for row in rows}

    def check_recipe(self, arms: Sequence[str]) -> None:
        """Check that all runs of some arms were trained by one recipe, as far as their args.yaml tell. Which weights
        they start from may differ.

        Raises:
            UsageError: Two runs differ in a flag that changes the computation.
        """
        runs = [(run, shared_flags(argparse.Namespace(**run.args))) for run in self.runs
                if run.cell.arm.name in arms and run.args]
        for run, flags in runs[1:]:
            first, start = runs[0][0], dict.fromkeys(_START)
            difference = recipe_difference({**runs[0][1], **start}, {**flags, **start})
            if difference:
                raise UsageError(f'{first.cell.run} and {run.cell.run} are of two recipes: {difference}.\n'
                                 f'Put them into two folders or arms.')


def find_experiments(roots: Sequence[Path]) -> List[Experiment]:
    """Find the experiments below directories.

    Args:
        roots: Directories to search; hidden ones below them are skipped. A log that lies below an earlier directory
            too, byte by byte, is left out: a card repeats the log of its run.

    Raises:
        UsageError: A directory is not there, holds no runs, or has a log or notes that are damaged or contradict each
            other.
    """
    found: List[Experiment] = []
    before: Set[bytes] = set()
    for root in roots:
        if not root.is_dir():
            raise UsageError(f'no such directory: {root}.\nExpected a directory with logs of runs, such as '
                             f'scripts/benchmarks.')
        logs = sorted(path for name in (SUMMARY, SOURCE_SUMMARY) for path in root.rglob(name)
                      if not any(part.startswith('.') for part in path.relative_to(root).parts))
        if not logs:
            raise UsageError(f'no {SUMMARY} below {root}.\nExpected runs in EXPERIMENT/ARM/seedN.')
        contents = {log: log.read_bytes() for log in logs}
        folders: Dict[Path, List[Path]] = {}
        for log in logs:
            if contents[log] not in before:
                folders.setdefault(_folder(root, log), []).append(log)
        before.update(contents.values())
        found += [_experiment(root, folder, folders[folder]) for folder in sorted(folders)]
    return found


def _experiment(root: Path, folder: Path, logs: Sequence[Path]) -> Experiment:
    notes = read_notes(folder)
    runs = [_run(log, notes) for log in logs]
    arms = list(dict.fromkeys(run.cell.arm.name for run in runs))
    missing = [arm for arm in notes.arms if arm not in arms]
    if missing:
        raise UsageError(f'{folder}: the notes name the arm {missing[0]}, which has no {SUMMARY}.\n'
                         f'Add its logs, or take it out of experiment.yaml.')
    if notes.baseline is not None and notes.baseline not in arms:
        raise UsageError(f'{folder / NOTES}: baseline is {notes.baseline!r}, expected one of {", ".join(arms)}.')
    check_distinct([(run.cell, run.seed) for run in runs])
    check_network([run.cell for run in runs if run.cell.arm.model])
    for run in runs:
        if run.epochs is None or run.cell.trained(run.epochs):
            warn_if_diverged(run.cell)
    ordered = sorted(runs, key=lambda run: (notes.place(run.cell.arm.name), run.cell.arm.name, run.seed or 0))
    name = folder.relative_to(root).as_posix() if folder != root else root.resolve().name
    return Experiment(name, folder, notes, tuple(ordered))


def _folder(root: Path, log: Path) -> Path:
    run = log.parent
    arm = run.parent if _SEED.fullmatch(run.name) else run
    if root not in arm.parents:
        raise UsageError(f'{log} lies in no arm.\nExpected runs in EXPERIMENT/ARM/seedN below {root}.')
    return arm.parent


def _run(log: Path, notes: Notes) -> LoggedRun:
    run, number = log.parent, _SEED.fullmatch(log.parent.name)
    name = run.parent.name if number else run.name
    known = notes.arms.get(name, ArmNotes())
    args = Cell(Arm(name, ''), 0, run).args() if log.name == SUMMARY else {}
    logged = args.get('model')
    if logged and known.network not in (None, logged):
        raise UsageError(f'{run}: args.yaml says {logged}, experiment.yaml {known.network}.\n'
                         f'Take the network out of the notes.')
    arm = Arm(name, str(logged or known.network or ''), (args.get('model_kwargs') or {}) if logged else
              known.model_kwargs)
    seed = int(number[1]) if number else args.get('seed')
    if number:
        check_seed(run, args, int(number[1]))
    cell = Cell(arm, seed or 0, run, log.name)
    if cell.damage():
        raise UsageError(f'{cell.damage()}.\nExpected the table that training writes, epoch by epoch.')
    if not logged:
        return LoggedRun(cell, seed, None, notes.epochs)
    flags: Any = with_defaults(args)
    return LoggedRun(cell, seed, vars(flags), training_epochs(flags))
