"""Draws the pictures of the measurements from the logs that lie beside them.

    python -m iebn_zoo.studies.evidence.pictures scripts/benchmarks
    python -m iebn_zoo.studies.evidence.pictures scripts/benchmarks start/compare.png      # one of them
"""
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Callable, List, Optional, Sequence

from iebn_zoo.studies.compare import overview, report
from iebn_zoo.studies.evidence import attacks, batch_noise
from iebn_zoo.studies.evidence.experiments import Experiment, find_experiments
from iebn_zoo.studies.evidence.timings import BENCHMARKS, machines, measured, read_days
from iebn_zoo.studies.noise.log import read_layers
from iebn_zoo.util.command_line.main import run as run_main
from iebn_zoo.util.command_line.parser import Parser, RawHelpFormatter
from iebn_zoo.util.errors import IEBNZooError, UsageError

NOISE = 'noise_attacks'
# pictures of experiments that are not called compare.png
NAMES = {'finetune': 'finetune.png', NOISE: 'noise.png'}
OVERVIEW, SHOWN = 'overview.png', 'zoo'


@dataclass(frozen=True)
class Picture:
    """A picture and what draws it.

    Attributes:
        name: Path of the PNG below the directory of the logs.
        draw: Draws it into a file.
    """

    name: str
    draw: Callable[[Path], object]


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; return 0."""
    parser = Parser(prog='python -m iebn_zoo.studies.evidence.pictures', description=__doc__,
                    formatter_class=RawHelpFormatter)
    parser.add_argument('logs', type=Path, metavar='DIR', help='directory with the logs')
    parser.add_argument('names', nargs='*', metavar='PNG', help='pictures to draw, by their path below DIR (default: '
                        'all)')
    parser.add_argument('--output', type=Path, metavar='DIR', help='directory to write to (default: the first DIR, '
                        'where the pictures lie)')
    args = parser.parse_args(argv)
    for path in draw_pictures(args.logs, args.names, args.output or args.logs):
        print(path)
    return 0


def find_pictures(root: Path) -> List[Picture]:
    """List the pictures that the logs below ``root`` allow: one of each experiment of two arms or more, those of the
    benchmarks, and the overview.

    Raises:
        UsageError: As ``find_experiments``.
    """
    experiments = {experiment.name: experiment for experiment in find_experiments([root])}
    found = [_picture(name, experiment) for name, experiment in experiments.items() if len(experiment.arms()) > 1]
    found += [Picture(f'{name}/{batch_noise.PICTURE}', partial(batch_noise.draw_sizes, experiment))
              for name, experiment in experiments.items() if batch_noise.has_batch_sizes(experiment)]
    if {'bn', 'iebn'} <= set(experiments[SHOWN].arms() if SHOWN in experiments else ()):
        found.append(Picture(OVERVIEW, lambda path: overview.draw(path, root / SHOWN)))
    found += [Picture(f'{name}.png', _benchmark_drawer(root, name)) for name in BENCHMARKS if measured(root, name)]
    return sorted(found, key=lambda picture: picture.name)


def draw_pictures(root: Path, names: Sequence[str], output: Path) -> List[Path]:
    """Draw pictures into ``output``, each at its place below it; returns the files.

    Args:
        root: Directory with the logs.
        names: Paths of pictures below ``root``; none for all.
        output: Directory to write to.

    Raises:
        UsageError: A name is unknown, or a log is damaged.
        IEBNZooError: A picture cannot be written, or none of its runs is complete.
    """
    pictures = {picture.name: picture for picture in find_pictures(root)}
    unknown = next((name for name in names if name not in pictures), None)
    if unknown is not None:
        raise UsageError(f'no logs below {root} make a picture {unknown}.\nExpected one of {", ".join(pictures)}.')
    drawn = []
    for name in names or list(pictures):
        path = output / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise IEBNZooError(f'cannot make {path.parent}: {e.strerror or e}.\nGive a writable place.') from e
        if pictures[name].draw(path) is not False:
            drawn.append(path)
        elif names:
            raise IEBNZooError(f'{name}: no run is complete.\nDraw it when two arms have ended.')
    return drawn


def _benchmark_drawer(root: Path, name: str) -> Callable[[Path], object]:
    def draw(path: Path) -> bool:
        from iebn_zoo.plots.benchmark import draw_days  # matplotlib takes its time to import
        days = read_days(root, name)
        title = (f'{BENCHMARKS[name].words}: {machines(days)}\n'
                 f"medians of {min(row['rounds'] for rows in days.values() for row in rows)} rounds or more, lines are "
                 f"interquartile ranges")
        return draw_days(path, days, title)

    return draw


def _picture(name: str, experiment: Experiment) -> Picture:
    if attacks.has_attacks(experiment):
        return Picture(f'{name}/{attacks.PICTURE}', partial(attacks.draw_attacks, experiment))
    draw = _draw_noise if name == NOISE else _draw_curves
    return Picture(f'{name}/{NAMES.get(name, report.PICTURE)}', partial(draw, experiment))


def _draw_curves(experiment: Experiment, path: Path) -> bool:
    runs = [run for run in experiment.runs if run.epochs is not None]
    lengths = sorted({run.epochs or 0 for run in runs})
    if len(lengths) > 1:
        raise UsageError(f'{experiment.directory} holds runs of {" and ".join(map(str, lengths))} epochs.\n'
                         f'Put them into two folders.')
    args = next((run.args for run in runs if run.args), None)
    return bool(runs) and report.draw(path, [run.cell for run in runs], lengths[0], args, experiment.notes)


def _draw_noise(experiment: Experiment, path: Path) -> None:
    from iebn_zoo.plots.noise import NoisyRun, plot_runs
    notes, models = experiment.notes, [run.cell.arm.model for run in experiment.runs]
    runs = []
    for run in experiment.runs:
        arm, attack = run.cell.arm.name, notes.arms[run.cell.arm.name].attack or 'no attack'
        norm = notes.plain_label(arm).removesuffix(f', {attack}')
        runs.append(NoisyRun(norm, attack, run.cell.rows(), read_layers(run.cell.run)))
    plot_runs(runs, path, report.title(models, len(runs[0].rows), None, notes, [1]))


if __name__ == '__main__':
    sys.exit(run_main(main))
