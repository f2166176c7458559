"""Which epoch of a run is its best, and by which weights: one answer for training, export, card and comparison.

The metric is that of ``--eval-metric``. With a moving average (``--model-ema``) its weights are measured too, and they
are what is ranked.
"""
import math
from typing import Any, Mapping, Optional, Sequence

MODEL, EMA = 'model', 'ema'
WEIGHTS_NAMES = {MODEL: 'the weights', EMA: 'the EMA weights'}
Row = Mapping[str, Any]


def ranked_weights(row: Row) -> str:
    """What is ranked in a row of summary.csv: ``'ema'`` where it was measured, else ``'model'``."""
    return EMA if 'eval_ema_top1' in row else MODEL


def ranked_value(row: Row, metric: str) -> float:
    """``metric`` (top1, top5 or loss) of the weights that are ranked."""
    return row[f'eval_ema_{metric}' if ranked_weights(row) == EMA else f'eval_{metric}']


def rank_key(value: float, metric: str) -> float:
    """Sorts the better value to the front; NaN behind every number."""
    if math.isnan(value):
        return math.inf
    return value if metric == 'loss' else -value


def best_row(rows: Sequence[Row], metric: str) -> Optional[Row]:
    """The best epoch, the first of equal ones; None without rows."""
    return min(rows, key=lambda row: rank_key(ranked_value(row, metric), metric), default=None)


def described(row: Row, metric: str) -> str:
    """Such as ``top1 54.11 of the EMA weights (epoch 8)``."""
    return f'{metric} {ranked_value(row, metric):.4g} of {WEIGHTS_NAMES[ranked_weights(row)]} (epoch {row["epoch"]})'


def key_of(checkpoint: Mapping[str, Any]) -> str:
    """Key of the weights in a checkpoint that were ranked: ``state_dict_ema`` or ``state_dict``."""
    return 'state_dict_ema' if 'state_dict_ema' in checkpoint else 'state_dict'
