"""The report of a grid: runs.csv, results.csv, results.md and compare.png."""
import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from iebn_zoo.data.named import is_folder
from iebn_zoo.studies.compare import arguments, results
from iebn_zoo.studies.compare.arms import Arm, default_baseline, without_norm
from iebn_zoo.studies.compare.checks import check_grid
from iebn_zoo.studies.compare.grid import Cell, found_cells
from iebn_zoo.studies.compare.notes import NOTES, Notes, read_notes
from iebn_zoo.studies.compare.table import markdown
from iebn_zoo.training.config.optimizer import training_epochs
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
    for cell in cells:
        if cell.trained(epochs):
            warn_if_diverged(cell)
    runs = [results.run_row(cell, epochs, output, resolved.eval_metric) for cell in cells]
    arms = results.arm_rows(runs, baseline)
    results.write_rows(output / RUNS, runs, results.RUN_COLUMNS)
    results.write_rows(output / RESULTS, arms, results.ARM_COLUMNS)
    table = markdown(arms)
    write_text(output / TABLE, f'{table}\n')
    draw(output / PICTURE, cells, epochs, vars(resolved), read_notes(output))
    print(f'\n{table}\n\n{output / RESULTS}', flush=True)


def draw(path: Path, cells: Sequence[Cell], epochs: int, args: Optional[Mapping[str, Any]], notes: Notes) -> bool:
    """Draw the curves of the complete runs, with a band over the seeds of each arm.

    Args:
        path: PNG to write.
        cells: Of one experiment.
        epochs: Of a complete run.
        args: Flags that the runs share; None if they are not known.
        notes: Order and labels of the arms, network and data in words.

    Returns:
        Whether there was anything to draw.

    Raises:
        IEBNZooError: The file cannot be written.
    """
    groups: Dict[str, List[Any]] = {}
    complete = [cell for cell in cells if cell.trained(epochs)]
    for cell in sorted(complete, key=lambda cell: notes.place(cell.arm.name)):  # sorting keeps the order of the rest
        groups.setdefault(notes.plain_label(cell.arm.name), []).append(cell.rows())
    if groups:
        from iebn_zoo.plots.bands import draw_bands  # matplotlib takes its time to import
        draw_bands(path, groups, title([cell.arm.model for cell in complete], epochs, args, notes,
                                       list(map(len, groups.values()))))
    return bool(groups)


def title(
        models: Sequence[str], epochs: int, args: Optional[Mapping[str, Any]], notes: Notes, seeds: Sequence[int],
) -> str:
    """Make the title of a picture, such as ``resnet20, CIFAR-100, 10 epochs, n = 3``.

    Args:
        models: Registered names of the networks.
        epochs: Of the runs.
        args: As in ``draw``.
        notes: As in ``draw``.
        seeds: Runs of each arm.
    """
    n = str(seeds[0]) if len(set(seeds)) == 1 else f'{min(seeds)} to {max(seeds)}'
    words = [network_words(models, notes), data_words(args, notes), f'{epochs} epochs', f'n = {n}']
    return ', '.join(filter(None, words))


def network_words(models: Sequence[str], notes: Notes) -> str:
    """Name the network that all arms have in their norms; empty if they have several and the notes do not tell."""
    names = {without_norm(model) for model in models}
    return notes.network or (names.pop() if len(names) == 1 else '')


def data_words(args: Optional[Mapping[str, Any]], notes: Notes) -> str:
    """Name the data: the notes' words, or the name of the dataset or of the directory; empty if nothing tells."""
    return notes.data or ('' if args is None else data_name(args))


def data_name(args: Mapping[str, Any]) -> str:
    """Return the dataset of a run, or the last part of its ``--data-dir``: the path before it is of one machine."""
    name = str(args.get('dataset') or '')
    return Path(str(args.get('data_dir') or '')).name if is_folder(name) else name


def from_logs(output: Path, baseline: Optional[str] = None) -> None:
    """Write the report of the runs in a directory from their args.yaml, summary.csv and timing.csv.

    Args:
        output: Directory with runs in ARM/seedN.
        baseline: See ``asked`` of ``choose_baseline``.

    Raises:
        UsageError: There are no runs, one has no args.yaml, they are not of one recipe, or ``check_grid`` refuses them.
        IEBNZooError: A file cannot be written.
    """
    cells = found_cells(output)
    if not cells:
        raise UsageError(f'no runs in {output}.\nExpected the directory of a grid, with runs in ARM/seedN.')
    resolved = [resolved_args(cell) for cell in cells]
    check_grid(cells)
    shared = [arguments.shared_flags(args) for args in resolved]
    for cell, flags in zip(cells, shared, strict=True):
        difference = arguments.recipe_difference(shared[0], flags)
        if difference:
            raise UsageError(f'{cells[0].run} and {cell.run} are of two recipes: {difference}.\n'
                             f'Expected runs that differ by arm and seed alone.')
    baseline = choose_baseline(baseline, output, list({cell.arm.name: cell.arm for cell in cells}.values()))
    first = [cell for cell in cells if cell.arm.name == baseline]
    write([*first, *cells], resolved[0], output, baseline)


def choose_baseline(asked: Optional[str], output: Path, arms: Sequence[Arm]) -> Optional[str]:
    """Name the arm that differences are taken to: ``asked``, or that of experiment.yaml, or ``default_baseline``.

    Args:
        asked: ``--baseline``, or None.
        output: Directory of the grid.
        arms: All of the grid, with all arguments of their models.

    Raises:
        UsageError: The name is that of no arm, or experiment.yaml is damaged.
    """
    noted = read_notes(output).baseline
    names = [arm.name for arm in arms]
    for place, name in (('--baseline', asked), (f'baseline in {output / NOTES}', noted)):
        if name is not None and name not in names:
            raise UsageError(f'{place} is {name}, which is no arm of this grid.\nExpected one of {", ".join(names)}.')
        if name is not None:
            return name
    return default_baseline(arms)


def warn_if_diverged(cell: Cell) -> None:
    """Say on standard error that a run has diverged, if it has."""
    if cell.diverged():
        print(f'warning: {cell.run} has diverged: the loss of its last epoch is not finite', file=sys.stderr,
              flush=True)


def resolved_args(cell: Cell) -> argparse.Namespace:
    """Return the flags of a run; see ``arguments.with_defaults``.

    Raises:
        UsageError: The run has no readable args.yaml.
    """
    args = cell.args()
    if 'model' not in args:
        raise UsageError(f'no readable args.yaml in {cell.run}.\nExpected a run that iebn-zoo train has left.')
    return arguments.with_defaults(args)
