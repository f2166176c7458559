"""The report of a grid: runs.csv, results.csv, results.md and compare.png."""
import argparse
from pathlib import Path
from typing import Any, List, Optional, Sequence

from iebn_zoo.studies.compare import arguments, results
from iebn_zoo.studies.compare.arms import default_baseline
from iebn_zoo.studies.compare.grid import Cell, found_cells
from iebn_zoo.studies.compare.table import markdown
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.optimizer import training_epochs
from iebn_zoo.training.run.ranking import ranked_value
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.files import write_text

RESULTS, TABLE, RUNS, PICTURE = 'results.csv', 'results.md', 'runs.csv', 'compare.png'


def write(cells: Sequence[Cell], resolved: Any, output: Path, baseline: Optional[str] = None) -> None:
    """Write the four files, and print the table.

    Args:
        cells: Of this call; their arms come first. Other runs in ``output`` follow.
        resolved: The flags of ``train``.
        output: Directory of the grid.
        baseline: Name of the arm that differences are taken to, or None.

    Raises:
        IEBNZooError: A file cannot be written.
    """
    epochs = training_epochs(resolved)
    order = list(dict.fromkeys(cell.arm.name for cell in cells))
    # those of this call first: they know their arm's arguments before a run has begun
    found = {cell.run: cell for cell in (*found_cells(output), *cells)}.values()
    cells = sorted(found, key=lambda c: (order.index(c.arm.name) if c.arm.name in order else len(order), c.arm.name,
                                         c.seed))
    runs = [results.run_row(cell, epochs, output, resolved.eval_metric) for cell in cells]
    arms = results.arm_rows(runs, baseline)
    results.write_rows(output / RUNS, runs, results.RUN_COLUMNS)
    results.write_rows(output / RESULTS, arms, results.ARM_COLUMNS)
    table = markdown(arms)
    write_text(output / TABLE, f'{table}\n')
    groups = {row['arm']: [_curve(c) for c in cells if c.arm.name == row['arm'] and c.trained(epochs)]
              for row in arms if row['n']}
    if groups:
        from iebn_zoo.plots.bands import draw_bands
        draw_bands(output / PICTURE, groups)
    print(f'\n{table}\n\n{output / RESULTS}', flush=True)


def from_logs(output: Path, baseline: Optional[str] = None) -> None:
    """Write the report of the runs in a directory from their args.yaml, summary.csv and timing.csv.

    Args:
        output: Directory with runs in ARM/seedN.
        baseline: Name of the arm that differences are taken to; None for that of ``default_baseline``.

    Raises:
        UsageError: There are no runs, one has no args.yaml, or they are not of one recipe.
        IEBNZooError: A file cannot be written.
    """
    cells = found_cells(output)
    if not cells:
        raise UsageError(f'no runs in {output}.\nExpected the directory of a grid, with runs in ARM/seedN.')
    resolved = [_resolved(cell) for cell in cells]
    shared = [arguments.shared_flags(args) for args in resolved]
    for cell, flags in zip(cells, shared, strict=True):
        difference = arguments.recipe_difference(shared[0], flags)
        if difference:
            raise UsageError(f'{cells[0].run} and {cell.run} are of two recipes: {difference}.\n'
                             f'Expected runs that differ by arm and seed alone.')
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    baseline = check_baseline(baseline, [arm.name for arm in arms]) or default_baseline(arms)
    first = [cell for cell in cells if cell.arm.name == baseline]
    write([*first, *cells], resolved[0], output, baseline)


def check_baseline(baseline: Optional[str], names: List[str]) -> Optional[str]:
    """Return ``baseline`` if it is None or one of ``names``.

    Raises:
        UsageError: ``baseline`` is another name.
    """
    if baseline is not None and baseline not in names:
        raise UsageError(f'--baseline is {baseline}, which is no arm of this grid.\nExpected one of '
                         f'{", ".join(dict.fromkeys(names))}.')
    return baseline


def _resolved(cell: Cell) -> argparse.Namespace:
    args = cell.args()
    if 'model' not in args:
        raise UsageError(f'no readable args.yaml in {cell.run}.\nExpected a run that iebn-zoo train has left.')
    # a flag that a run does not know yet counts as being at its default
    return argparse.Namespace(**{**vars(train_parser().parse_args([])), **args})


def _curve(cell: Cell) -> List[Any]:
    return [dict(row, **{f'eval_{k}': ranked_value(row, k) for k in ('loss', 'top1')}) for row in cell.rows()]
