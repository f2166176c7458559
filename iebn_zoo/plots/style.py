"""The style that all pictures share: colours, axes, and the writing of a PNG."""
import math
import statistics
from io import BytesIO
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from iebn_zoo.util.files import atomic_write
from iebn_zoo.util.ranking import EMA, rank_key, ranked_weights
from iebn_zoo.util.results import Kind

Rows = Sequence[Mapping[str, Any]]
# Okabe and Ito's colours, which people with a colour vision deficiency can tell apart; yellow is too pale for a line
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
DASHES = ('-', '--', ':', '-.')
_LEGEND = dict(fontsize=9, framealpha=0.8)
_FAR = 20  # the largest loss over the median of all from which their axis is logarithmic


def colour(index: int) -> str:
    """Return the colour of variant, network or line number ``index``; 7 are distinct."""
    return COLOURS[index % len(COLOURS)]


def line_style(index: int) -> dict:
    """Return colour and dashes of line number ``index``; 28 are distinct."""
    return dict(color=colour(index), linestyle=DASHES[index // len(COLOURS) % len(DASHES)])


def panels(titles: Sequence[str], columns: int = 3, extra_height: float = 0.0) -> Tuple[Figure, List[Axes]]:
    """Make a figure with one panel per quantity over the epochs.

    Args:
        titles: Labels of the vertical axes.
        columns: Panels per row.
        extra_height: Inches for a legend of the figure.
    """
    columns = min(columns, len(titles))
    lines = math.ceil(len(titles) / columns)
    fig = Figure(figsize=(4.6 * columns, 3.7 * lines + extra_height), layout='constrained')
    grid = fig.subplots(lines, columns, squeeze=False).flatten()
    for axes, title in zip(grid, titles, strict=False):
        axes.set(xlabel='epoch', ylabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    for axes in grid[len(titles):]:
        axes.set_visible(False)
    return fig, list(grid[:len(titles)])


def series(rows: Rows, column: str) -> Tuple[List[int], List[float]]:
    """Return epochs, which count from 0, and values of a column; rows without it are skipped."""
    found = [(row['epoch'], row[column]) for row in rows if row.get(column) is not None]
    return [x for x, _ in found], [y for _, y in found]


def plot(axes: Axes, rows: Rows, column: str, label: str, **style: Any) -> None:
    """Draw a column, with one dot per epoch if there are few."""
    epochs, values = series(rows, column)
    if values:
        axes.plot(epochs, values, marker='.' if len(epochs) <= 40 else None, label=label, linewidth=1.6, **style)


def scale_losses(axes: Axes) -> None:
    """Make the axis of the losses logarithmic where one of them would press the others onto its lower end."""
    drawn = (np.asarray(line.get_ydata(), float).tolist() for line in axes.get_lines())
    losses = [loss for values in drawn for loss in values if 0 < loss < math.inf]
    if losses and max(losses) > _FAR * statistics.median(losses):
        axes.set_yscale('log')
        axes.set_ylim(min(losses) / 2, 2 * max(losses))


def last_and_best(rows: Rows) -> str:
    """Return a text on top-1 such as ``last 52.15, best 52.20 (epoch 9)``.

    Args:
        rows: Of ``iebn_zoo.util.ranking.rows_of``: an epoch whose loss is not finite has no top-1, and is not the best.
    """
    epochs, values = series(rows, 'eval_top1')
    if not values:
        return ''
    best = min(range(len(values)), key=lambda i: rank_key(values[i], 'top1'))
    return f'last {values[-1]:.2f}, best {values[best]:.2f} (epoch {epochs[best]})'


def with_weights(name: str, runs: Sequence[Rows]) -> str:
    """Return ``name``, followed by ``EMA weights`` where the top-1 that is drawn of the runs is theirs at the end."""
    weights = {ranked_weights(rows[-1]) for rows in runs if rows}
    if EMA not in weights:
        return name
    return f'{name}, EMA weights' + (' of some runs' if len(weights) > 1 else '')


def legend(axes: Axes) -> None:
    """Add a legend if the axes have labelled lines."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**_LEGEND)


def save(fig: Figure, path: Path, kind: Optional[Kind] = None) -> Path:
    """Write a PNG atomically; returns ``path``.

    Args:
        fig: What to write.
        path: The file.
        kind: What the metadata say that it is; a command replaces no picture of another kind.

    Raises:
        IEBNZooError: It cannot be written.
    """
    with atomic_write(path) as file:
        fig.savefig(file, format='png', dpi=120, metadata={'Title': kind.name} if kind else None)
    return path


def as_image(fig: Figure) -> Image.Image:
    """Draw a figure into memory, with the pixels that ``save`` writes."""
    file = BytesIO()
    fig.savefig(file, format='png', dpi=120)
    with Image.open(file) as image:
        image.load()
        return image
