"""The picture of the gates that each image opens, layer by layer."""
from pathlib import Path
from typing import Dict, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from iebn_zoo.plots.style import COLOURS, save

_LABELS = 40  # most names of layers below a panel
_START = 1 / (1 + np.e)  # sigmoid(-1): every gate of a new network


def draw_image_gates(
        path: Path,
        images: Sequence[Image.Image],
        titles: Sequence[str],
        gates: Dict[str, np.ndarray],
        title: str,
) -> None:
    """Draw one row per image, and below them how much the gates differ between the images.

    Args:
        path: PNG.
        images: Images to show beside their rows.
        titles: Titles of the rows.
        gates: (images, channels) of each layer, by its name, in the order in which the layers run.
        title: Title of the picture.
    """
    rows, places = len(images), np.arange(len(gates))
    width = 3.2 + max(5.5, 0.2 * min(len(gates), 2 * _LABELS))
    fig = Figure(figsize=(width, 1.9 * rows + 2.6), layout='constrained')
    grid = fig.subplots(rows + 1, 2, width_ratios=(1.6, width - 3.2), squeeze=False)
    fig.suptitle(title, fontsize=11)
    for i, (picture, panel) in enumerate(grid[:-1]):
        picture.imshow(images[i], interpolation='nearest')
        picture.set(xticks=[], yticks=[])
        picture.set_title(titles[i], fontsize=8)
        low, middle, high = np.array([np.quantile(values[i], (0.05, 0.5, 0.95)) for values in gates.values()]).T
        panel.fill_between(places, low, high, color=COLOURS[0], alpha=0.25, linewidth=0,
                           label='middle 90 % of the channels')
        panel.plot(places, middle, color=COLOURS[0], marker='.', linewidth=1.4, label='median channel')
        panel.axhline(_START, color='black', linewidth=0.8, linestyle=':', label='sigmoid(-1), the start')
        panel.set(ylim=(0, 1), xlim=(-0.5, len(gates) - 0.5), ylabel='gate')
        panel.grid(axis='y', alpha=0.3)
        panel.set_xticks([])
        if i == 0:
            panel.legend(fontsize=8, framealpha=0.8, loc='upper right', ncols=3)
    grid[-1][0].set_visible(False)
    spread = grid[-1][1]
    spread.bar(places, [values.std(0).mean() for values in gates.values()], color=COLOURS[1])
    spread.set(xlim=(-0.5, len(gates) - 0.5), ylabel='spread over\nthese images')
    spread.grid(axis='y', alpha=0.3)
    every = -(-len(gates) // _LABELS)
    spread.set_xticks(places[::every], list(gates)[::every], rotation=90, fontsize=7)
    save(fig, path)
