"""The gates of a network, layer by layer, as a picture."""
from pathlib import Path
from typing import TYPE_CHECKING, Union

from matplotlib.figure import Figure

from iebn_zoo.plots import style

if TYPE_CHECKING:  # arrows point from the report to its picture
    from iebn_zoo.conversion.folding.report import FoldReport

_MAX_LABELS = 60  # names that fit below a picture


def draw_gates(report: 'FoldReport', path: Union[str, Path]) -> None:
    """Draw each layer's mean gate with its spread over channels, and below it the spread over instances.

    Args:
        report: Of ``fold_gates``.
        path: PNG to write.

    Raises:
        IEBNZooError: The file cannot be written.
    """
    layers = report.layers
    places = range(len(layers))
    width = max(6.0, 2 + 0.22 * min(len(layers), _MAX_LABELS))
    # the two spreads may differ by orders of magnitude: each has a scale of its own
    fig = Figure(figsize=(width, 5.5), layout='constrained')
    upper, lower = fig.subplots(2, 1, sharex=True)
    upper.errorbar(places, [gates.mean for gates in layers], [gates.channel_spread for gates in layers],
                   fmt='k.', ecolor=style.colour(0), elinewidth=3)
    upper.set(ylabel='mean ± spread over channels', ylim=(0, 1), xlim=(-1, len(layers)))
    upper.set_title(_title(report), fontsize=10)  # at the default size it is wider than the narrowest figure
    lower.bar(places, [gates.instance_spread for gates in layers], color=style.colour(1))
    lower.set(ylabel='spread over instances')
    every = -(-len(layers) // _MAX_LABELS)
    lower.set_xticks(places[::every], [gates.layer for gates in layers[::every]], rotation=90, fontsize=7)
    for axes in (upper, lower):
        axes.set_axisbelow(True)
        axes.grid(axis='y', alpha=0.3)
    style.save(fig, Path(path))


def _title(report: 'FoldReport') -> str:
    a = report.agreement
    agreement = '' if a is None else f'\nfolded network: the same top-1 for {a.same_top1} of {a.images} held-out images'
    return f'gates on {report.images} images{agreement}'
