"""The picture of the gates that each image opens, layer by layer."""
from pathlib import Path
from typing import Dict, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from iebn_zoo.plots.style import COLOURS, save
from iebn_zoo.util.results import picture_kind

KIND = picture_kind('a picture of iebn-zoo gates')
_LABELS = 40  # most names of layers below a panel
_START = 1 / (1 + np.e)  # sigmoid(-1): every gate of a new network


def draw_image_gates(
        path: Path,
        images: Sequence[Image.Image],
        titles: Sequence[str],
        gates: Dict[str, np.ndarray],
        title: str,
) -> None:
    """Write the picture of ``image_gates_figure`` to ``path``, a PNG."""
    save(image_gates_figure(images, titles, gates, title), path, KIND)


def image_gates_figure(
        images: Sequence[Image.Image],
        titles: Sequence[str],
        gates: Dict[str, np.ndarray],
        title: str,
) -> Figure:
    """Draw one row per image, and below them how much the gates differ between the images, if there are several.

    Args:
        images: Images to show beside their rows.
        titles: Titles of the rows.
        gates: (images, channels) of each layer, by its name, in the order in which the layers run.
        title: Title of the picture.
    """
    rows, places, several = len(images), np.arange(len(gates)), len(images) > 1
    width = 3.2 + max(5.5, 0.2 * min(len(gates), 2 * _LABELS))
    # a row that is alone is higher, because the names of the layers stand below it
    fig = Figure(figsize=(width, 1.9 * rows + 2.6 if several else 3.6), layout='constrained')
    grid = fig.subplots(rows + several, 2, width_ratios=(1.6, width - 3.2), squeeze=False)
    fig.suptitle(title, fontsize=11, parse_math=False)
    for i, (picture, panel) in enumerate(grid[:rows]):
        picture.imshow(images[i], interpolation='nearest')
        picture.set(xticks=[], yticks=[])
        picture.set_title(titles[i], fontsize=8, parse_math=False)  # the name of a class may hold a $
        low, middle, high = np.array([np.quantile(values[i], (0.05, 0.5, 0.95)) for values in gates.values()]).T
        panel.fill_between(places, low, high, color=COLOURS[0], alpha=0.25, linewidth=0,
                           label='middle 90 % of the channels')
        panel.plot(places, middle, color=COLOURS[0], marker='.', linewidth=1.4, label='median channel')
        panel.axhline(_START, color='black', linewidth=0.8, linestyle=':', label='sigmoid(-1), the start')
        panel.set(ylim=(0, 1), xlim=(-0.5, len(gates) - 0.5), ylabel='gate')
        panel.grid(axis='y', alpha=0.3)
        panel.set_xticks([])
        if i == 0:
            # above the panel, because gates may be anywhere in it
            panel.legend(fontsize=8, frameon=False, loc='lower right', bbox_to_anchor=(1, 1), borderaxespad=0.2,
                         ncols=3)
    lowest = grid[-1][1]
    if several:
        grid[-1][0].set_visible(False)
        lowest.bar(places, [values.std(0).mean() for values in gates.values()], color=COLOURS[1])
        lowest.set(xlim=(-0.5, len(gates) - 0.5), ylabel='spread over\nthese images')
        lowest.grid(axis='y', alpha=0.3)
    every = -(-len(gates) // _LABELS)
    lowest.set_xticks(places[::every], list(gates)[::every], rotation=90, fontsize=7)
    return fig
