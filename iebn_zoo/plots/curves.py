"""The picture of one run: its curves."""
import re
from pathlib import Path
from typing import List, Tuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iebn_zoo.plots.style import Rows, last_and_best, legend, line_style, panels, plot, save, scale_losses
from iebn_zoo.util.ranking import EMA, MODEL, ranked_weights, rows_of

_STAGE = re.compile(r'gate_(mean|spread|instance_spread)_(\w+)')
_TITLES = {'mean': 'mean of the gates', 'spread': 'spread of the gates (std)',
           'instance_spread': 'gate spread over instances (std)'}


def draw_curves(path: Path, rows: Rows) -> Path:
    """Write ``curves_figure`` as PNG to ``path``; returns ``path``.

    Raises:
        IEBNZooError: It cannot be written.
    """
    return save(curves_figure(rows), path)


def curves_figure(rows: Rows) -> Figure:
    """Draw loss, top-1 and learning rate over the epochs, and gates per stage and batch noise if the rows have them.

    Args:
        rows: Of summary.csv: ``epoch``, ``train_loss``, ``eval_loss``, ``eval_top1``, ``lr``; with an EMA also
            ``eval_ema_loss`` and ``eval_ema_top1``; ``gate_mean_<stage>``, ``gate_spread_<stage>``,
            ``gate_instance_spread_<stage>``; ``batch_noise``.
    """
    columns = [c for c in dict.fromkeys(key for row in rows for key in row) if _STAGE.fullmatch(c)]
    kinds = [k for k in _TITLES if any(_parts(c)[0] == k for c in columns)]
    noise = ['batch noise'] if any('batch_noise' in row for row in rows) else []
    fig, axes = panels(['loss', 'top-1 (%)', 'learning rate', *[_TITLES[k] for k in kinds], *noise])
    _draw_training(axes, rows)
    if noise:
        plot(axes[-1], rows, 'batch_noise', 'mean over the norms', **line_style(0))
    for kind, panel in zip(kinds, axes[3:], strict=False):
        stages = [c for c in columns if _parts(c)[0] == kind]
        for i, column in enumerate(stages):
            plot(panel, rows, column, _parts(column)[1], **line_style(i))
        legend(panel)
    return fig


def _parts(column: str) -> Tuple[str, str]:
    kind, stage = _STAGE.sub(r'\1 \2', column).split()
    return kind, re.sub(r'(?<=[a-z])(?=\d)', ' ', stage)


def _draw_training(axes: List[Axes], rows: Rows) -> None:
    loss, top1, lr = axes[:3]
    plot(loss, rows, 'train_loss', 'train (as optimized)', **line_style(0))
    plot(loss, rows, 'eval_loss', 'eval', **line_style(1))
    plot(loss, rows, 'eval_ema_loss', 'eval, EMA', **line_style(2))
    for i, (weights, word) in enumerate(((MODEL, 'eval'), (EMA, 'EMA'))):
        own = rows_of([row for row in rows if weights == MODEL or ranked_weights(row) == EMA], weights)
        plot(top1, own, 'eval_top1', f'{word}: {last_and_best(own)}', **line_style(1 + i))
    plot(lr, rows, 'lr', 'of the last step', **line_style(0))
    scale_losses(loss)
    lr.set_ylim(bottom=0)
    for panel in (loss, top1):
        legend(panel)
