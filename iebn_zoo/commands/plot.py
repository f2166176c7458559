"""``plot``: draw runs over each other."""
import argparse
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import yaml

from iebn_zoo.plots.overlay import KIND, draw_overlay
from iebn_zoo.training.run.records import ARGS, SUMMARY, Row, read_summary
from iebn_zoo.util.command_line.flags import expanded
from iebn_zoo.util.command_line.parser import Parser
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.results import check_picture


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(
        description='Draw loss, top-1 and learning rate of several runs over each other, from their '
        'summary.csv; of a run with --model-ema the loss and top-1 of the EMA weights.')
    parser.add_argument('runs', type=expanded, nargs='+', metavar='RUN', help='directory of a run')
    parser.add_argument('-o', '--output', type=expanded, default='runs.png', metavar='FILE',
                        help='PNG to write')
    parser.add_argument('--labels', nargs='+', metavar='NAME', help='names in the legend (default: those of '
                        'the models if they differ, otherwise those of the directories)')
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of scripts/plot.py and of ``iebn-zoo plot``."""
    args = build_parser().parse_args(argv)
    runs = [Path(run) for run in args.runs]
    if args.labels and len(args.labels) != len(runs):
        raise UsageError(f'{len(args.labels)} --labels for {len(runs)} runs.\nGive one per run.')
    check_picture('--output', args.output, KIND)
    rows = [read_rows(run) for run in runs]
    labels = args.labels or run_names(runs)
    if len(set(labels)) < len(labels):
        raise UsageError(f'two runs are called {_twice(labels)!r}.\nGive each run once, and each its own of --labels.')
    print(draw_overlay(Path(args.output), dict(zip(labels, rows, strict=True))))
    return 0


def read_rows(run: Path) -> List[Row]:
    """Read the rows of a run's summary.csv.

    Raises:
        UsageError: ``run`` holds no summary.csv.
        IEBNZooError: summary.csv is damaged.
    """
    if not (run / SUMMARY).is_file():
        raise UsageError(f'no {SUMMARY} in {run}.\nExpected the directory of a run that has finished an epoch.')
    try:
        return read_summary(run)
    except (ValueError, KeyError, TypeError) as e:
        raise IEBNZooError(f'{run / SUMMARY} cannot be read: {e}.\nExpected the table that training writes.') from e


def run_names(runs: Sequence[Path]) -> List[str]:
    """Make short names: of the models if all runs differ in them, otherwise the part of the paths that differs."""
    models = [_args(run).get('model') for run in runs]
    if all(models) and len(set(models)) == len(models):
        return [str(m) for m in models]
    paths = [os.path.abspath(run) for run in runs]
    if len(paths) == 1:
        return [os.path.basename(paths[0])]
    common = os.path.commonpath(paths)
    return [os.path.relpath(path, common) for path in paths]


def _args(run: Path) -> Mapping[str, Any]:
    try:
        values: Dict[str, Any] = yaml.safe_load((run / ARGS).read_text(encoding='utf-8'))
    except (OSError, ValueError, yaml.YAMLError):
        return {}  # a summary.csv alone is enough to draw
    return values if isinstance(values, dict) else {}


def _twice(labels: Sequence[str]) -> str:
    return next(label for label in labels if labels.count(label) > 1)
