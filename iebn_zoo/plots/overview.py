"""The first picture of the README: where the gate stands, what it computes, and two curves with their spread."""
import math
from pathlib import Path
from typing import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from iebn_zoo.plots.bands import diverged_words, draw_band, mean_and_spread
from iebn_zoo.plots.style import COLOURS, Rows, line_style, save, with_weights
from iebn_zoo.util.ranking import rows_of

_GATE_BIAS = -1.0


def draw_overview(path: Path, groups: Mapping[str, Sequence[Rows]], title: str) -> Path:
    """Write the picture as PNG.

    Args:
        path: File to write.
        groups: For each curve its name and the rows of its runs, one list of rows per seed.
        title: Title of the curves: network, data and number of seeds.

    Returns:
        ``path``.

    Raises:
        IEBNZooError: The file cannot be written.
    """
    fig = Figure(figsize=(8.6, 5.6), layout='constrained')
    panels = fig.subplot_mosaic([['block', 'block'], ['gate', 'curves']], height_ratios=(0.75, 1))
    block, gate, curves = panels['block'], panels['gate'], panels['curves']
    _draw_block(block)
    _draw_gate(gate)
    for i, (name, runs) in enumerate(groups.items()):
        ranked = [rows_of(rows) for rows in runs]  # of the EMA, where there is one
        points = mean_and_spread(ranked, 'eval_top1')
        style = line_style(i)
        draw_band(curves, points, style)
        words = diverged_words(ranked) or f': {points[1][-1]:.1f} ± {points[2][-1]:.1f}'
        curves.plot([], [], label=f'{with_weights(name, runs)}{words}', **style)
    curves.set(xlabel='epoch', ylabel='top-1 (%)')
    curves.set_title(title, fontsize=11)
    curves.legend(loc='lower right', fontsize=10)
    curves.grid(alpha=0.3)
    return save(fig, path)


def _draw_block(axes: Axes) -> None:
    axes.set(xlim=(0, 17), ylim=(1.3, 6.3))
    axes.set_axis_off()
    axes.set_title('one norm of a block', fontsize=12)
    boxes = {
        'x': (0.2, 2.7, 1.3, 'x', 'white'), 'bn': (4.0, 2.7, 3.2, '(x − µ) / σ', 'white'),
        'gate': (2.6, 4.7, 7.4, 'gate = sigmoid(a · mean(x) + b)', COLOURS[4]),
        'scale': (10.6, 2.7, 4.6, '× weight · gate + bias', 'white')}
    for left, low, width, text, colour in boxes.values():
        axes.add_patch(FancyBboxPatch((left, low), width, 0.8, boxstyle='round,pad=0.12', facecolor=colour,
                                      edgecolor='black', alpha=0.9))
        axes.text(left + width / 2, low + 0.4, text, ha='center', va='center', fontsize=11.5)
    for start, end, bend in (((1.65, 3.1), (3.85, 3.1), 0), ((7.35, 3.1), (10.45, 3.1), 0),
                             ((15.35, 3.1), (17, 3.1), 0), ((0.85, 3.65), (2.45, 5.1), -0.35),
                             ((10.15, 5.1), (12.9, 3.65), -0.35)):
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle='-|>', mutation_scale=15,
                                       connectionstyle=f'arc3,rad={bend}', color='black'))
    axes.text(5.6, 2.35, 'mean and variance of the batch', ha='center', va='top', fontsize=11)
    axes.text(6.3, 6.0, 'of each image and channel', ha='center', va='center', fontsize=11)


def _draw_gate(axes: Axes) -> None:
    means = [i / 20 - 3 for i in range(121)]
    for i, slope in enumerate((0.0, 0.5, 2.0)):
        values = [1 / (1 + math.exp(-(slope * m + _GATE_BIAS))) for m in means]
        label = 'a = 0: a new network' if slope == 0 else f'a = {slope:g}'
        axes.plot(means, values, label=label, linewidth=1.6, **line_style(i))
    axes.set(xlabel="mean of the image's channel", ylabel='gate', ylim=(0, 1))
    axes.set_title('what a trained gate_weight a does (b = −1)', fontsize=11)
    axes.legend(fontsize=10)
    axes.grid(alpha=0.3)
