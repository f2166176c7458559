"""The results of a grid: one row per run, and one row per arm."""
import math
import re
import statistics
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from iebn_zoo.studies.compare.grid import Cell
from iebn_zoo.studies.compare.welch import welch_interval
from iebn_zoo.training.run.checkpoint import BEST, LAST
from iebn_zoo.util.csv_files import write_csv
from iebn_zoo.util.ranking import best_row, ranked_value, ranked_weights, sample_deviation

Row = Dict[str, Any]
MEASURES = ('last', 'best', 'test_last', 'test_best')
RUN_COLUMNS = ('arm', 'model', 'model_kwargs', 'seed', 'epochs', 'complete', 'weights', 'last', 'best', 'best_epoch',
               'test_last', 'test_best', 'train_loss', 'seconds', 'run')
ARM_COLUMNS = ('arm', 'model', 'model_kwargs', 'n', 'epochs', 'weights',
               *[f'{m}_{k}' for m in MEASURES for k in ('mean', 'std', 'min', 'max', 'diff', 'diff_low', 'diff_high')],
               'baseline', 'train_loss_mean', 'hours', 'seeds', 'diverged')
# of --gate-stats, in the last epoch
GATE = re.compile(r'gate_(?:mean|spread|instance_spread)_\w+')


def run_row(cell: Cell, epochs: int, output: Path, metric: str = 'top1') -> Row:
    """Make a row of runs.csv: eval top-1 in percent of the last and of the best epoch. Epochs count from 0.

    ``last`` is NaN of a run that has diverged, and ``best`` where no epoch has a finite loss.

    Args:
        cell: The run.
        epochs: Epochs of a complete run.
        output: Directory of the grid.
        metric: By which the best epoch is chosen: ``--eval-metric`` of the run.
    """
    rows = cell.rows()
    row: Row = dict.fromkeys(RUN_COLUMNS)
    row.update(arm=cell.arm.name, model=cell.arm.model, seed=cell.seed, epochs=len(rows),
               model_kwargs=' '.join(f'{k}={v}' for k, v in cell.arm.kwargs.items()),
               complete=int(cell.trained(epochs)), run=cell.run.relative_to(output).as_posix())
    if rows:
        best = best_row(rows, metric)
        row.update(weights=ranked_weights(rows[-1]), last=ranked_value(rows[-1], 'top1'), seconds=cell.seconds(),
                   train_loss=rows[-1].get('train_loss'))
        row.update({k: v for k, v in rows[-1].items() if GATE.fullmatch(k)})
        if best is not None:
            row.update(best=ranked_value(best, 'top1'), best_epoch=best['epoch'])
        for name, checkpoint in (('test_last', LAST), ('test_best', BEST)):
            row[name] = (cell.test_result(checkpoint) or {}).get('top1')
    return row


def arm_rows(run_rows: Sequence[Row], baseline: Optional[str] = None) -> List[Row]:
    """Make one row of results.csv per arm, over its complete runs.

    Standard deviations are the sample's (n - 1). Differences are to the mean of ``baseline``, with Welch's interval at
    95 %, which treats seeds as independent samples, although runs of one seed share the order of their images. An arm
    has no mean of a figure that one of its runs lacks. ``diverged`` counts the runs whose ``last`` is NaN.

    Args:
        run_rows: Of ``run_row``.
        baseline: Name of an arm, or None.
    """
    complete = [row for row in run_rows if row['complete']]
    names = list(dict.fromkeys(row['arm'] for row in run_rows))
    return [_arm_row(name, run_rows, complete, baseline) for name in names]


def _arm_row(name: str, run_rows: Sequence[Row], complete: Sequence[Row], baseline: Optional[str]) -> Row:
    runs = [r for r in complete if r['arm'] == name]
    first = next(r for r in run_rows if r['arm'] == name)
    row: Row = dict.fromkeys(ARM_COLUMNS)
    row.update(arm=name, model=first['model'], model_kwargs=first['model_kwargs'], n=len(runs),
               epochs=max((r['epochs'] for r in runs), default=0),
               weights='+'.join(sorted({r['weights'] for r in runs})), seeds=' '.join(str(r['seed']) for r in runs),
               diverged=sum(math.isnan(r['last']) for r in runs))
    for measure in MEASURES:
        values = _values(runs, measure)
        if not values:
            continue
        row.update({f'{measure}_mean': statistics.fmean(values), f'{measure}_min': min(values),
                    f'{measure}_max': max(values),
                    f'{measure}_std': sample_deviation(values) if len(values) > 1 else None})
        if baseline is not None and name != baseline:
            row['baseline'] = baseline
            row.update(_difference(measure, values, _values([r for r in complete if r['arm'] == baseline], measure)))
    row['train_loss_mean'] = _mean(_values(runs, 'train_loss'))
    seconds = _values(runs, 'seconds')
    row['hours'] = sum(seconds) / 3600 if seconds else None
    row.update({k: _mean(_values(runs, k)) for k in gate_columns(runs)})
    return row


def gate_columns(rows: Sequence[Row]) -> List[str]:
    """Return the columns of ``--gate-stats`` that some of the rows have."""
    return [k for k in dict.fromkeys(k for row in rows for k in row) if GATE.fullmatch(k)]


def _values(runs: Sequence[Row], column: str) -> List[float]:
    # all or none: a mean over some of the seeds would pass for one over all
    values = [r[column] for r in runs if r.get(column) is not None and math.isfinite(r[column])]
    return values if len(values) == len(runs) else []


def _mean(values: Sequence[float]) -> Optional[float]:
    return statistics.fmean(values) if values else None


def _difference(measure: str, values: Sequence[float], baseline: Sequence[float]) -> Row:
    if not baseline:
        return {}
    interval = welch_interval(values, baseline)
    return {f'{measure}_diff': statistics.fmean(values) - statistics.fmean(baseline),
            f'{measure}_diff_low': interval and interval.low, f'{measure}_diff_high': interval and interval.high}


def write_rows(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Write a CSV; None is an empty cell.

    Raises:
        IEBNZooError: It cannot be written.
    """
    write_csv(path, rows, [*columns, *gate_columns(rows)], digits=6)
