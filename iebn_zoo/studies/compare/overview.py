"""Draws the first picture of the README from the logs of finished runs.

    python -m iebn_zoo.studies.compare.overview scripts/benchmarks/start scripts/benchmarks/overview.png
"""
import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

from iebn_zoo.plots.overview import draw_overview
from iebn_zoo.training.run.records import read_summary
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.main import run

_ARMS = {'bn': 'BatchNorm', 'iebn-start-bn': 'IEBN'}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command. Returns 0."""
    parser = argparse.ArgumentParser(prog='python -m iebn_zoo.studies.compare.overview', description=__doc__)
    parser.add_argument('runs', type=Path, metavar='DIR', help='directory with ARM/seedN of the arms bn, iebn-start-bn')
    parser.add_argument('output', type=Path, metavar='PNG', help='file to write')
    args = parser.parse_args(argv)
    groups = {name: [read_summary(seed) for seed in sorted((args.runs / arm).glob('seed*'))]
              for arm, name in _ARMS.items()}
    empty = next((arm for arm, name in _ARMS.items() if not groups[name]), None)
    if empty is not None:
        raise UsageError(f'{args.runs / empty} holds no seedN.\nGive the output directory of iebn-zoo compare.')
    seeds = min(map(len, groups.values()))
    draw_overview(args.output, groups, f'resnet20, CIFAR-100, 10 epochs, n = {seeds}')
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
