"""``plot-noise``: accuracy and batch noise of several runs in one picture, BN beside IEBN."""
import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

import yaml

from iebn_zoo.errors import UsageError
from iebn_zoo.files import atomic_write
from iebn_zoo.noise.log import read_layers
from iebn_zoo.training.actions import expanded
from iebn_zoo.training.log import ARGS, SUMMARY, Row, read_summary

_STYLES = ('-', '--', ':', '-.')
_MAX_LABELS = 60


@dataclass(frozen=True)
class NoisyRun:
    """A run as the picture shows it.

    Attributes:
        model: Name of the network; the colour.
        attack: In words; the line style.
        rows: Of summary.csv.
        layers: Of batch_noise.csv, may be empty.
    """

    model: str
    attack: str
    rows: List[Row]
    layers: List[Dict[str, Any]]

    @property
    def label(self) -> str:
        return f'{self.model}, {self.attack}'


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        description='Draw runs together: top-1 per epoch, and where they were trained with --batch-noise, the batch '
                    'noise per epoch and per layer. Colours tell networks, line styles attacks.')
    parser.add_argument('runs', type=expanded, nargs='+', metavar='RUN', help='directory of a run')
    parser.add_argument('--output', type=expanded, required=True, metavar='PNG')
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of ``iebn-zoo plot-noise``."""
    args = build_parser().parse_args(argv)
    plot_runs([read_run(run) for run in args.runs], args.output)
    return 0


def read_run(directory: Union[str, Path]) -> NoisyRun:
    """Read args.yaml, summary.csv and batch_noise.csv of a run.

    Raises:
        UsageError: It is no run, or one without a finished epoch.
    """
    run = Path(directory)
    for name in (ARGS, SUMMARY):
        if not (run / name).is_file():
            raise UsageError(f'{run} has no {name}.\nExpected the directory of a run with at least one epoch.')
    try:
        args = yaml.safe_load((run / ARGS).read_text(encoding='utf-8'))
        model, rows = args['model'], read_summary(run)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as e:
        raise UsageError(f'cannot read {run}: {type(e).__name__}.\nExpected what training writes.') from e
    return NoisyRun(model, _attack(args), rows, read_layers(run))


def _attack(args: Dict[str, Any]) -> str:
    attacks = []
    if args.get('norm_noise'):
        na, nb = args['norm_noise']
        attacks.append(f'Na {na:g}, Nb {nb:g}' + (' in eval too' if args.get('norm_noise_eval') else ''))
    if args.get('mix_dataset'):
        attacks.append(f"{args['mix_count']} of {Path(args['mix_dataset']).name}")
    return ' and '.join(attacks) or 'no attack'


def plot_runs(runs: Sequence[NoisyRun], path: Union[str, Path]) -> None:
    """Draw top-1 over the epochs, mean batch noise over the epochs, and batch noise over the layers at the last epoch.

    Args:
        runs: At least one; the parts on batch noise show those that have it.
        path: PNG to write.

    Raises:
        IEBNZooError: The file cannot be written.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    models, attacks = (list(dict.fromkeys(getattr(run, k) for run in runs)) for k in ('model', 'attack'))
    measured = [run for run in runs if run.layers]
    fig, panels = plt.subplots(
        1, 3 if measured else 1, figsize=(15 if measured else 6, 4.8), layout='constrained', squeeze=False)
    for axes, column, title in zip(panels[0], ('eval_top1', 'batch_noise'), ('top-1 (%)', 'batch noise'), strict=False):
        for run in runs:
            rows = [row for row in run.rows if column in row]
            if rows:
                axes.plot([row['epoch'] for row in rows], [row[column] for row in rows],
                          **_look(run, models, attacks))
        axes.set(xlabel='epoch', ylabel=title, title=f'{title} after each epoch')
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if measured:
        _plot_layers(panels[0][2], measured, models, attacks)
    for axes in panels[0]:
        axes.grid(alpha=0.3)
    fig.legend(*panels[0][0].get_legend_handles_labels(), loc='outside lower center', ncols=2, fontsize=8)
    try:
        with atomic_write(path) as file:
            fig.savefig(file, format='png', dpi=120)
    finally:
        plt.close(fig)


def _look(run: NoisyRun, models: Sequence[str], attacks: Sequence[str]) -> Dict[str, Any]:
    return dict(color=f'C{models.index(run.model) % 10}', linestyle=_STYLES[attacks.index(run.attack) % len(_STYLES)],
                marker='.', label=run.label)


def _plot_layers(axes: Any, runs: Sequence[NoisyRun], models: Sequence[str], attacks: Sequence[str]) -> None:
    names = list(dict.fromkeys(row['layer'] for run in runs for row in run.layers))
    for run in runs:
        last = [row for row in run.layers if row['epoch'] == run.layers[-1]['epoch']]
        axes.plot([names.index(row['layer']) for row in last], [row['batch_noise'] for row in last],
                  **_look(run, models, attacks))
    every = -(-len(names) // _MAX_LABELS)
    axes.set_xticks(range(0, len(names), every), names[::every], rotation=90, fontsize=6)
    axes.set(ylabel='batch noise', title='batch noise of each norm, last epoch')
