"""Which epoch of a run is its best, and by which weights: training, export, card, comparison and pictures agree.

The metric is that of ``--eval-metric``. With a moving average (``--model-ema``), its weights are measured too, and rank
the epochs.
"""
import math
import statistics
from typing import Any, Dict, List, Mapping, Optional, Sequence

MODEL, EMA = 'model', 'ema'
WEIGHTS_NAMES = {MODEL: 'the weights', EMA: 'the EMA weights'}
Row = Mapping[str, Any]


def ranked_weights(row: Row) -> str:
    """Say which weights rank a row of summary.csv: ``'ema'`` where they were measured, else ``'model'``."""
    return EMA if 'eval_ema_top1' in row else MODEL


def ranked_value(row: Row, metric: str) -> float:
    """Return ``metric`` (top1, top5 or loss) of the weights that rank the epoch; see ``value_of``."""
    return value_of(row, metric, ranked_weights(row))


def value_of(row: Row, metric: str, weights: str) -> float:
    """Return ``metric`` (top1, top5 or loss) of ``weights``, ``'ema'`` or ``'model'``, in a row of summary.csv.

    It is NaN, which ranks last, where the loss is not finite: logits that are not finite count as the first class.
    """
    prefix = 'eval_ema_' if weights == EMA else 'eval_'
    return row[f'{prefix}{metric}'] if math.isfinite(row[f'{prefix}loss']) else math.nan


def rows_of(rows: Sequence[Row], weights: Optional[str] = None) -> List[Dict[str, Any]]:
    """Return a copy of ``rows`` whose ``eval_loss`` and ``eval_top1`` are those of ``weights``; see ``value_of``.

    Args:
        rows: Of summary.csv. A row that lacks one of the two columns, which no training writes, keeps what it has.
        weights: ``'ema'`` or ``'model'``; None for the weights that rank each epoch.
    """
    copied = []
    for row in rows:
        own = weights or ranked_weights(row)
        prefix = 'eval_ema_' if own == EMA else 'eval_'
        whole = f'{prefix}loss' in row and f'{prefix}top1' in row
        copied.append(dict(row, **{f'eval_{k}': value_of(row, k, own) for k in ('loss', 'top1') if whole}))
    return copied


def sample_deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation of two values or more; NaN where one of them is not finite."""
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan  # stdev raises AttributeError


def rank_key(value: float, metric: str) -> float:
    """Return a key that sorts better values first, and NaN last."""
    if math.isnan(value):
        return math.inf
    return value if metric == 'loss' else -value


def best_row(rows: Sequence[Row], metric: str) -> Optional[Row]:
    """Return the best epoch, the first of equal ones; None without rows."""
    return min(rows, key=lambda row: rank_key(ranked_value(row, metric), metric), default=None)


def described(row: Row, metric: str) -> str:
    """Write a row as ``top1 54.11 of the EMA weights (epoch 8)``."""
    return f'{metric} {ranked_value(row, metric):.4g} of {WEIGHTS_NAMES[ranked_weights(row)]} (epoch {row["epoch"]})'


def key_of(checkpoint: Mapping[str, Any]) -> str:
    """Return the key of the ranked weights in a checkpoint: ``state_dict_ema`` or ``state_dict``."""
    return 'state_dict_ema' if 'state_dict_ema' in checkpoint else 'state_dict'
