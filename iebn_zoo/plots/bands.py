"""The picture of runs with several seeds: the mean curve of each group with its spread."""
import math
import statistics
from pathlib import Path
from typing import List, Mapping, Sequence, Tuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iebn_zoo.plots.style import Rows, line_style, panels, save, scale_losses, series, with_weights
from iebn_zoo.util.ranking import rows_of, sample_deviation

Points = Tuple[List[int], List[float], List[float]]


def mean_and_spread(runs: Sequence[Rows], column: str) -> Points:
    """Return the epochs that all runs have, the means over the runs, and their sample deviations (0 for one run)."""
    values = [dict(zip(*series(rows, column), strict=True)) for rows in runs]
    epochs = sorted(set.intersection(*map(set, values))) if values else []
    at = [[v[e] for v in values] for e in epochs]
    return epochs, [statistics.fmean(v) for v in at], [sample_deviation(v) if len(v) > 1 else 0.0 for v in at]


def draw_bands(path: Path, groups: Mapping[str, Sequence[Rows]], title: str = '') -> Path:
    """Write ``bands_figure`` as PNG to ``path``; returns ``path``.

    Raises:
        IEBNZooError: It cannot be written.
    """
    return save(bands_figure(groups, title), path)


def bands_figure(groups: Mapping[str, Sequence[Rows]], title: str = '') -> Figure:
    """Draw eval loss and top-1 of each group: the mean as a line, a band of one standard deviation to each side.

    Args:
        groups: For each name the rows of its runs, one run per seed. The curves end with the shortest run. Loss and
            top-1 are those of the weights that rank the epochs: of the EMA where there is one, which the legend then
            says.
        title: Title of the picture: network, data, epochs and number of seeds.
    """
    fig, axes = panels(['eval loss', 'eval top-1 (%)'], extra_height=0.6 + 0.22 * len(groups))
    fig.suptitle(title, fontsize=12)
    handles = []
    for i, (name, logged) in enumerate(groups.items()):
        runs, style = [rows_of(rows) for rows in logged], line_style(i)
        for panel, column in zip(axes, ('eval_loss', 'eval_top1'), strict=True):
            draw_band(panel, mean_and_spread(runs, column), style)
        _, means, spreads = mean_and_spread(runs, 'eval_top1')
        last = f': last {means[-1]:.2f}' if means else ''
        spread = f' ± {spreads[-1]:.2f}' if len(runs) > 1 and means else ''
        words = diverged_words(runs) or f'{last}{spread}'
        label = f'{with_weights(name, runs)}{words} (n = {len(runs)})'
        handles.append(Line2D([], [], label=label, linewidth=2, **style))
    scale_losses(axes[0])
    fig.legend(handles=handles, loc='outside lower center', ncols=1, fontsize=10, frameon=False)
    return fig


def diverged_words(runs: Sequence[Rows]) -> str:
    """Write how many runs end with a top-1 that is NaN, such as ``: 1 diverged``; empty if none does."""
    number = sum(bool(rows) and math.isnan(rows[-1].get('eval_top1', 0.0)) for rows in runs)
    return f': {number} diverged' if number else ''


def draw_band(axes: Axes, points: Points, style: dict) -> None:
    """Draw the mean as a line and one standard deviation to each side of it as a band."""
    epochs, means, spreads = points
    axes.plot(epochs, means, marker='.' if len(epochs) <= 40 else None, linewidth=1.6, **style)
    if any(spreads):
        low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
        axes.fill_between(epochs, low, high, color=style['color'], alpha=0.2, linewidth=0)
