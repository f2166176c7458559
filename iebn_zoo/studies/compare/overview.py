"""Draws the first picture of the README from the logs of finished runs.

    python -m iebn_zoo.studies.compare.overview scripts/benchmarks/start scripts/benchmarks/overview.png
"""
import sys
from pathlib import Path
from typing import Optional, Sequence

from iebn_zoo.plots.overview import draw_overview
from iebn_zoo.studies.compare import report
from iebn_zoo.studies.compare.grid import found_cells
from iebn_zoo.studies.compare.notes import read_notes
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.main import run
from iebn_zoo.util.parser import Parser, RawHelpFormatter

_ARMS = {'bn': 'BatchNorm', 'iebn-start-bn': 'IEBN'}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; return 0."""
    parser = Parser(prog='python -m iebn_zoo.studies.compare.overview', description=__doc__,
                    formatter_class=RawHelpFormatter)
    parser.add_argument('runs', type=Path, metavar='DIR', help='directory with ARM/seedN of the arms bn, iebn-start-bn')
    parser.add_argument('output', type=Path, metavar='PNG', help='file to write')
    args = parser.parse_args(argv)
    draw(args.output, args.runs)
    return 0


def draw(output: Path, runs: Path) -> None:
    """Draw the picture.

    Args:
        output: PNG to write.
        runs: Directory with ARM/seedN of the two arms.

    Raises:
        UsageError: An arm has no runs, or they are of different lengths.
        IEBNZooError: The file cannot be written.
    """
    cells = {arm: [cell for cell in found_cells(runs) if cell.arm.name == arm] for arm in _ARMS}
    empty = next((arm for arm in _ARMS if not cells[arm]), None)
    if empty is not None:
        raise UsageError(f'{runs / empty} holds no seedN.\nGive the output directory of iebn-zoo compare.')
    every = [cell for found in cells.values() for cell in found]
    lengths = {len(cell.rows()) for cell in every}
    if len(lengths) > 1 or lengths == {0}:
        raise UsageError(f'{runs} holds runs of {" and ".join(map(str, sorted(lengths)))} epochs.\n'
                         f'Draw the picture when all have ended.')
    words = report.title([cell.arm.model for cell in every], lengths.pop(), every[0].args(), read_notes(runs),
                         [len(found) for found in cells.values()])
    draw_overview(output, {name: [cell.rows() for cell in cells[arm]] for arm, name in _ARMS.items()}, words)


if __name__ == '__main__':
    sys.exit(run(main))
