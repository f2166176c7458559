"""Draws the first picture of the README from the logs of finished runs.

    python -m iebn_zoo.studies.compare.overview scripts/benchmarks/zoo scripts/benchmarks/overview.png
"""
import sys
from pathlib import Path
from typing import Optional, Sequence

from iebn_zoo.plots.overview import draw_overview
from iebn_zoo.studies.compare import report
from iebn_zoo.studies.compare.checks import check_grid
from iebn_zoo.studies.compare.grid import found_cells
from iebn_zoo.studies.compare.notes import NORM_NAMES, read_notes
from iebn_zoo.util.command_line.main import run
from iebn_zoo.util.command_line.parser import Parser, RawHelpFormatter
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.results import ANYTHING, check_picture

_NORMS = ('bn', 'iebn')


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; return 0."""
    parser = Parser(prog='python -m iebn_zoo.studies.compare.overview', description=__doc__,
                    formatter_class=RawHelpFormatter)
    parser.add_argument('runs', type=Path, metavar='DIR', help='directory with ARM/seedN, one arm of BatchNorm and '
                        'one of IEBN')
    parser.add_argument('output', type=Path, metavar='PNG', help='file to write')
    args = parser.parse_args(argv)
    check_picture('PNG', args.output, ANYTHING)
    draw(args.output, args.runs)
    return 0


def draw(output: Path, runs: Path) -> None:
    """Draw the picture.

    Args:
        output: PNG to write.
        runs: Directory with ARM/seedN. Of each of the two norms there is one arm, by the arm's name or by ``norm`` in
            experiment.yaml.

    Raises:
        UsageError: A norm has no runs or two arms, the runs are of different lengths, or ``check_grid`` refuses them.
        IEBNZooError: The file cannot be written.
    """
    notes = read_notes(runs)
    cells = {norm: [cell for cell in found_cells(runs) if notes.norm(cell.arm.name) == norm] for norm in _NORMS}
    odd = next((norm for norm in _NORMS if len({cell.arm.name for cell in cells[norm]}) != 1), None)
    if odd is not None:
        raise UsageError(f'{runs} holds {"two arms" if cells[odd] else "no run"} of {NORM_NAMES[odd]}.\n'
                         f'Give the output directory of iebn-zoo compare, with one arm of each norm.')
    every = [cell for found in cells.values() for cell in found]
    check_grid(every)
    lengths = {len(cell.rows()) for cell in every}
    if len(lengths) > 1 or lengths == {0}:
        raise UsageError(f'{runs} holds runs of {" and ".join(map(str, sorted(lengths)))} epochs.\n'
                         f'Draw the picture when all have ended.')
    words = report.title([cell.arm.model for cell in every], lengths.pop(), every[0].args(), notes,
                         [len(found) for found in cells.values()])
    draw_overview(output, {NORM_NAMES[norm]: [cell.rows() for cell in found] for norm, found in cells.items()}, words)


if __name__ == '__main__':
    sys.exit(run(main))
