"""The first picture of the README: where the gate stands, what it computes, and two curves with their spread."""
import math
from pathlib import Path
from typing import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from iebn_zoo.plots.bands import draw_band, mean_and_spread
from iebn_zoo.plots.style import COLOURS, Rows, line_style, save

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
    fig = Figure(figsize=(12, 3.6), layout='constrained')
    block, gate, curves = fig.subplots(1, 3, width_ratios=(1.25, 1, 1.1))
    _draw_block(block)
    _draw_gate(gate)
    for i, (name, runs) in enumerate(groups.items()):
        points = mean_and_spread(runs, 'eval_top1')
        style = line_style(i)
        draw_band(curves, points, style)
        curves.plot([], [], label=f'{name}: {points[1][-1]:.1f} ± {points[2][-1]:.1f}', **style)
    curves.set(xlabel='epoch', ylabel='top-1 (%)')
    curves.set_title(title, fontsize=11)
    curves.legend(loc='lower right', fontsize=10)
    curves.grid(alpha=0.3)
    return save(fig, path)


def _draw_block(axes: Axes) -> None:
    axes.set(xlim=(0, 10), ylim=(0.8, 6.4))
    axes.set_axis_off()
    axes.set_title('one norm of a block', fontsize=11)
    boxes = {
        'x': (0.1, 2.6, 1.1, 'x', 'white'), 'bn': (2.6, 2.6, 2.6, '(x − µ) / σ', 'white'),
        'gate': (1.25, 4.4, 5.4, 'gate = sigmoid(a · mean(x) + b)', COLOURS[4]),
        'scale': (6.3, 2.6, 2.7, '× weight · gate\n+ bias', 'white')}
    for left, low, width, text, colour in boxes.values():
        axes.add_patch(FancyBboxPatch((left, low), width, 0.9, boxstyle='round,pad=0.12', facecolor=colour,
                                      edgecolor='black', alpha=0.9))
        axes.text(left + width / 2, low + 0.45, text, ha='center', va='center', fontsize=9)
    for start, end, bend in (((1.35, 3.05), (2.45, 3.05), 0), ((5.35, 3.05), (6.15, 3.05), 0),
                             ((9.15, 3.05), (10, 3.05), 0), ((0.55, 3.65), (1.1, 4.85), -0.3),
                             ((6.8, 4.85), (7.7, 3.7), -0.3)):
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle='-|>', mutation_scale=13,
                                       connectionstyle=f'arc3,rad={bend}', color='black'))
    axes.text(3.9, 2.05, 'mean and variance\nof the batch', ha='center', va='top', fontsize=9)
    axes.text(3.95, 5.75, 'of each image and channel', ha='center', va='center', fontsize=9)


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
