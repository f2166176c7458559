"""Writes results.csv: one line for every run whose log is there.

    python -m iebn_zoo.studies.evidence.results scripts/benchmarks hub_cards
"""
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from iebn_zoo.studies.compare.notes import Notes
from iebn_zoo.studies.compare.report import data_words
from iebn_zoo.studies.compare.results import Row
from iebn_zoo.studies.evidence.experiments import Experiment, LoggedRun, find_experiments
from iebn_zoo.training.run.records import ENVIRONMENT
from iebn_zoo.util.command_line.main import run
from iebn_zoo.util.command_line.parser import Parser, RawHelpFormatter
from iebn_zoo.util.csv_files import write_csv
from iebn_zoo.util.errors import UsageError

RESULTS = 'results.csv'
COLUMNS = ('experiment', 'arm', 'network', 'model_kwargs', 'recipe', 'data', 'epochs', 'complete', 'seed', 'precision',
           'weights', 'last_top1', 'best_top1', 'best_epoch', 'train_loss', 'images_per_second', 'hours', 'machine',
           'torch', 'timm', 'log')
_DIGITS = 6


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; return 0."""
    parser = Parser(prog='python -m iebn_zoo.studies.evidence.results', description=__doc__,
                    formatter_class=RawHelpFormatter)
    parser.add_argument('logs', type=Path, nargs='+', metavar='DIR', help='directories with logs of runs')
    parser.add_argument('--output', type=Path, metavar='CSV', help='file to write (default: results.csv in the first '
                        'DIR)')
    args = parser.parse_args(argv)
    output = args.output or args.logs[0] / RESULTS
    if output.suffix != '.csv' or output.is_dir():
        raise UsageError(f'--output is {output}, expected a name that ends in .csv.')
    print(write_results(output, find_experiments(args.logs)))
    return 0


def write_results(path: Path, experiments: Sequence[Experiment]) -> Path:
    """Write the table of all runs; returns ``path``.

    Args:
        path: CSV to write. The column ``log`` is relative to its directory.
        experiments: Of ``find_experiments``.

    Raises:
        UsageError: An environment.json is damaged.
        IEBNZooError: The file cannot be written.
    """
    write_csv(path, result_rows(experiments, path.parent), COLUMNS, digits=_DIGITS)
    return path


def result_rows(experiments: Sequence[Experiment], base: Path) -> List[Row]:
    """Make the rows of results.csv. What neither a log nor the notes say is None.

    ``network`` and its arguments come from args.yaml, ``machine`` and the versions from environment.json; where a run
    lacks these files, from the notes. The words for the data are those of the notes, if there are any. top-1 is in
    percent, of the weights that ``weights`` names (``model`` or ``ema``); ``epochs`` are those that have finished, and
    ``best_epoch`` counts from 0; ``images_per_second`` is over all epochs; ``hours`` are of training, without
    evaluation.

    Args:
        experiments: Of ``find_experiments``.
        base: Directory that the logs' paths are relative to.

    Raises:
        UsageError: An environment.json is damaged.
    """
    return [_row(experiment, logged, base) for experiment in experiments for logged in experiment.runs]


def _row(experiment: Experiment, logged: LoggedRun, base: Path) -> Row:
    row = logged.row()
    seconds, args = row['seconds'], logged.args or {}
    return dict(
        experiment=experiment.name, arm=row['arm'], network=row['model'] or None,
        model_kwargs=row['model_kwargs'] or None, recipe=_recipe(args),
        data=data_words(logged.args, experiment.notes) or None,
        epochs=row['epochs'], complete=row['complete'], seed=row['seed'], precision=_precision(args),
        weights=row['weights'],
        last_top1=row['last'], best_top1=row['best'], best_epoch=row['best_epoch'], train_loss=row['train_loss'],
        images_per_second=logged.cell.images() / seconds if seconds else None,
        hours=None if seconds is None else seconds / 3600,
        **_machine(logged.cell.run, experiment.notes), log=_relative(logged.log, base))


def _recipe(args: Mapping[str, Any]) -> Any:
    # a recipe of the user's own is named without the folders of their machine
    return Path(args['config']).name if args.get('config') else None


def _precision(args: Mapping[str, Any]) -> Any:
    return None if not args else args['amp_dtype'] if args['amp'] else 'float32'


def _machine(run: Path, notes: Notes) -> Dict[str, Any]:
    path = run / ENVIRONMENT
    if not path.is_file():
        return dict(machine=notes.machine, torch=notes.torch, timm=notes.timm)
    try:
        facts = json.loads(path.read_text(encoding='utf-8'))
        # a log of an older version says less
        counts = [f'{facts[name]} {word}' for name, word in (('cpu_count', 'cores'), ('threads', 'threads'))
                  if name in facts]
        cores = ', '.join([facts['cpu'], *counts])
        return dict(machine=facts['gpu'] or cores, torch=facts['torch'], timm=facts['timm'])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UsageError(f'{path} is damaged ({type(e).__name__}: {e}).\nExpected what training writes.') from e


def _relative(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path, base)).as_posix()


if __name__ == '__main__':
    sys.exit(run(main))
