"""The picture of a confusion matrix."""
from pathlib import Path
from typing import Sequence

import numpy as np
from matplotlib.figure import Figure

from iebn_zoo.plots.style import save
from iebn_zoo.util.results import picture_kind

KIND = picture_kind('a picture of iebn-zoo validate --confusion')
_NAMED = 100  # classes whose names are still readable
_INCHES = 0.16  # per row and column with a name
_NUMBERED = 15  # classes in whose cells there is room for a number


def draw_confusion(path: Path, counts: np.ndarray, names: Sequence[str], title: str) -> None:
    """Draw which share of the images of each target got which answer.

    Args:
        path: PNG.
        counts: (classes, classes): rows are the targets, columns the answers.
        names: Of the classes; more than 100 are not shown.
        title: Title of the picture.
    """
    classes = len(counts)
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    inches = max(4.5, _INCHES * min(classes, _NAMED))
    fig = Figure(figsize=(inches + 2.5, inches + 1.0), layout='constrained')
    axes = fig.subplots()
    # the square root makes single mistakes visible beside a full diagonal
    image = axes.imshow(np.sqrt(share), cmap='Blues', vmin=0, vmax=1, interpolation='nearest')
    axes.set(title=title, xlabel='answer', ylabel='target')
    if classes <= _NAMED:
        size = 10 if classes <= 20 else 7
        shown = [name if len(name) <= 24 else f'{name[:21]}...' for name in names]
        axes.set_xticks(range(classes), shown, rotation=90, fontsize=size)
        axes.set_yticks(range(classes), shown, fontsize=size)
    if classes <= _NUMBERED:
        for i, j in np.argwhere(counts):
            axes.text(j, i, str(counts[i, j]), ha='center', va='center', fontsize=9,
                      color='white' if share[i, j] > 0.4 else 'black')
    bar = fig.colorbar(image, ax=axes, shrink=0.6, label='share of the images of the target')
    ticks = (0, 0.01, 0.05, 0.2, 0.5, 1)
    bar.set_ticks(np.sqrt(ticks).tolist(), labels=[f'{t:.0%}' for t in ticks])
    save(fig, path, KIND)
