"""The picture of several runs over each other."""
from pathlib import Path
from typing import Mapping

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iebn_zoo.plots.style import Rows, last_and_best, line_style, panels, plot, save, scale_losses, with_weights
from iebn_zoo.util.ranking import rows_of
from iebn_zoo.util.results import picture_kind

KIND = picture_kind('a picture of iebn-zoo plot')


def draw_overlay(path: Path, runs: Mapping[str, Rows]) -> Path:
    """Write ``overlay_figure`` as PNG to ``path``; returns ``path``.

    Raises:
        IEBNZooError: It cannot be written.
    """
    return save(overlay_figure(runs), path, KIND)


def overlay_figure(runs: Mapping[str, Rows]) -> Figure:
    """Draw loss, top-1 and learning rate of each run in a colour of its own. Loss and top-1 of the evaluation are those
    of the weights that rank the epochs: of the EMA where there is one, which the legend then says.

    Args:
        runs: Rows of summary.csv by the name that the legend shows.
    """
    fig, (loss, top1, lr) = panels(['loss', 'eval top-1 (%)', 'learning rate'], extra_height=0.3 + 0.22 * len(runs))
    handles = []
    for i, (name, rows) in enumerate(runs.items()):
        name, rows, style = with_weights(name, [rows]), rows_of(rows), line_style(i)
        plot(loss, rows, 'eval_loss', name, **style)
        plot(loss, rows, 'train_loss', name, **style, alpha=0.4)
        plot(top1, rows, 'eval_top1', name, **style)
        plot(lr, rows, 'lr', name, **style)
        handles.append(Line2D([], [], label=f'{name}: {last_and_best(rows)}', linewidth=2, **style))
    scale_losses(loss)
    lr.set_ylim(bottom=0)
    kinds = (('eval', 1.0), ('train, as optimized', 0.4))
    loss.legend(handles=[Line2D([], [], color='0.2', label=k, alpha=a) for k, a in kinds], fontsize=9)
    fig.legend(handles=handles, loc='outside lower center', ncols=1, fontsize=10, frameon=False)
    return fig
