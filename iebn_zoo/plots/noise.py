"""The picture of accuracy and batch noise of several runs: colours tell networks, line styles tell attacks."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence, Union

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from iebn_zoo.plots import style
from iebn_zoo.plots.style import DASHES
from iebn_zoo.util.ranking import EMA, ranked_weights, rows_of
from iebn_zoo.util.results import picture_kind

KIND = picture_kind('a picture of iebn-zoo plot-noise')
_WIDTH = 8.6  # inches, so that the text can be read at the width of a page
_MAX_LABELS = 60


@dataclass(frozen=True)
class NoisyRun:
    """The data of one run in the picture.

    Attributes:
        model: Name of the network; the colour.
        attack: The attack in words; the line style.
        rows: Rows of summary.csv; their top-1 is drawn of the weights that rank the epochs, which are those of the EMA
            where there is one.
        layers: Rows of batch_noise.csv; may be empty.
    """

    model: str
    attack: str
    rows: Sequence[Mapping[str, Any]]
    layers: Sequence[Mapping[str, Any]]

    @property
    def label(self) -> str:
        words = f'{self.model}, {self.attack}'  # the batch noise is that of the weights that are trained
        averaged = self.rows and ranked_weights(self.rows[-1]) == EMA
        return f'{words}, top-1 of the EMA weights' if averaged else words


def plot_runs(runs: Sequence[NoisyRun], path: Union[str, Path], title: str = '') -> None:
    """Draw top-1 over the epochs, mean batch noise over the epochs, and below them batch noise over the layers at the
    last epoch.

    Args:
        runs: At least one. The panels on batch noise show the runs that have it.
        path: PNG to write.
        title: Title of the picture: network, data, epochs and number of seeds.

    Raises:
        IEBNZooError: The file cannot be written.
    """
    models, attacks = (list(dict.fromkeys(getattr(run, k) for run in runs)) for k in ('model', 'attack'))
    measured = [run for run in runs if run.layers]
    columns = 2 if measured else 1
    lines = -(-len(runs) // columns)
    fig = Figure(figsize=(_WIDTH, (7.2 if measured else 4.0) + 0.2 * lines), layout='constrained')
    # A: top-1, B: batch noise over the epochs, C: over the layers
    panels = fig.subplot_mosaic('AB;CC' if measured else 'A', height_ratios=(1, 1.25) if measured else None)
    for axes, column, words in zip(panels.values(), ('eval_top1', 'batch_noise'), ('top-1 (%)', 'batch noise'),
                                   strict=False):
        for run in runs:
            rows = [row for row in rows_of(run.rows) if column in row]
            if rows:
                axes.plot([row['epoch'] for row in rows], [row[column] for row in rows],
                          **_look(run, models, attacks))
        axes.set(xlabel='epoch', ylabel=words, title=f'{words} after each epoch')
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if measured:
        _plot_layers(panels['C'], measured, models, attacks)
    for axes in panels.values():
        axes.grid(alpha=0.3)
        axes.title.set_fontsize(11)
    fig.suptitle(title, fontsize=12)
    fig.legend(*panels['A'].get_legend_handles_labels(), loc='outside lower center', ncols=columns, fontsize=10,
               frameon=False)
    style.save(fig, Path(path), KIND)


def plot_batch_sizes(lines: Mapping[str, Mapping[int, Sequence[float]]], path: Union[str, Path]) -> None:
    """Draw mean batch noise over the size of the batch: a point per seed, and a line through the means.

    Args:
        lines: For each network in words, the values of its seeds by batch size.
        path: PNG to write.

    Raises:
        IEBNZooError: The file cannot be written.
    """
    fig = Figure(figsize=(6.4, 4.2), layout='constrained')
    axes = fig.subplots()
    sizes = sorted({size for line in lines.values() for size in line})
    for number, (label, line) in enumerate(lines.items()):
        means = [(size, sum(line[size]) / len(line[size])) for size in sorted(line)]
        axes.plot([size for size, _ in means], [mean for _, mean in means], color=style.colour(number), linewidth=1.6,
                  label=label)
        axes.plot([size for size in line for _ in line[size]], [value for size in line for value in line[size]],
                  'o', color=style.colour(number), markersize=4)
    axes.set(xscale='log', yscale='log', xlabel='images per batch', ylabel='batch noise, mean over the norms')
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    style.legend(axes)
    style.save(fig, Path(path))


def plot_attacks(
        top1: Mapping[str, Mapping[str, Sequence[float]]], noise: Mapping[str, Mapping[str, Sequence[float]]],
        path: Union[str, Path], title: str = '',
) -> None:
    """Draw top-1 and, beside it, batch noise of networks that were trained under attacks: a point per seed, a line over
    the mean of each norm.

    Args:
        top1: For each attack and way of evaluation in words, top-1 in percent of the seeds by norm.
        noise: For each attack in words, the batch noise of the seeds by norm; may be empty.
        path: PNG to write.
        title: Title of the picture.

    Raises:
        IEBNZooError: The file cannot be written.
    """
    groups = [(top1, 'top-1 (%) of the last epoch'), (noise, 'batch noise of the last epoch')][:2 if noise else 1]
    lines = max(len(values) for values, _ in groups)
    fig = Figure(figsize=(_WIDTH, 1.7 + 0.55 * lines), layout='constrained')
    fig.suptitle(title, fontsize=12)
    norms = list(dict.fromkeys(norm for values, _ in groups for line in values.values() for norm in line))
    panels = fig.subplots(1, len(groups), squeeze=False)[0]
    for axes, (values, words) in zip(panels, groups, strict=True):
        for place, line in enumerate(values.values()):
            for number, norm in enumerate(norms):
                if norm in line:
                    y = place + 0.3 * (number - (len(norms) - 1) / 2)
                    mean = sum(line[norm]) / len(line[norm])
                    axes.plot(line[norm], [y] * len(line[norm]), 'o', color=style.colour(number), markersize=5,
                              label=norm)
                    axes.plot([mean, mean], [y - 0.13, y + 0.13], color=style.colour(number), linewidth=2)
        axes.set_yticks(range(len(values)), list(values))
        axes.set(ylim=(len(values) - 0.5, -0.5), xlabel=words)
        axes.grid(axis='x', alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    fig.legend([handles[labels.index(norm)] for norm in dict.fromkeys(labels)], list(dict.fromkeys(labels)),
               loc='outside lower center', ncols=len(norms), frameon=False)
    style.save(fig, Path(path))


def _look(run: NoisyRun, models: Sequence[str], attacks: Sequence[str]) -> Dict[str, Any]:
    return dict(color=style.colour(models.index(run.model)), linestyle=DASHES[attacks.index(run.attack) % len(DASHES)],
                marker='.', linewidth=1.6, label=run.label)


def _plot_layers(axes: Any, runs: Sequence[NoisyRun], models: Sequence[str], attacks: Sequence[str]) -> None:
    names = list(dict.fromkeys(row['layer'] for run in runs for row in run.layers))
    for run in runs:
        last = [row for row in run.layers if row['epoch'] == run.layers[-1]['epoch']]
        axes.plot([names.index(row['layer']) for row in last], [row['batch_noise'] for row in last],
                  **_look(run, models, attacks))
    every = -(-len(names) // _MAX_LABELS)
    axes.set_xticks(range(0, len(names), every), names[::every], rotation=90, fontsize=9 if len(names) <= 40 else 7)
    axes.set(ylabel='batch noise', xlabel='norm', title='batch noise of each norm after the last epoch')
