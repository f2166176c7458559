"""What the runs of a grid come to: a row a run, a row a model, a table."""
import csv
import statistics
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from iebn_zoo.compare.grid import Cell
from iebn_zoo.files import atomic_write
from iebn_zoo.training import state
from iebn_zoo.training.store import CheckpointStore

Row = Dict[str, Any]
_MEASURES = ('last', 'best', 'test_last', 'test_best')
RUN_COLUMNS = ('model', 'seed', 'epochs', 'complete', 'weights', 'last', 'best', 'best_epoch', 'test_last', 'test_best',
               'run')
MODEL_COLUMNS = ('model', 'n', 'epochs', 'weights',
                 *[f'{m}_{k}' for m in _MEASURES for k in ('mean', 'std', 'min', 'max')], 'seeds')


def evaluated(row: Row, metric: str) -> float:
    """``metric`` (top1, top5, loss) of an epoch: of the moving average where the run keeps one, as training ranks."""
    return row.get(f'eval_ema_{metric}', row[f'eval_{metric}'])


def weights_of(row: Row) -> str:
    """What ``evaluated`` is of: ``ema`` or ``model``."""
    return 'ema' if 'eval_ema_top1' in row else 'model'


def best_row(rows: Sequence[Row], metric: str) -> Optional[Row]:
    """The epoch that training took for the best, by ``--eval-metric``: that of model_best."""
    store = CheckpointStore(Path(), 0, metric == 'loss')
    for row in rows:
        store.rank(evaluated(row, metric), row['epoch'])
    return None if store.best is None else rows[store.best[1]]


def run_row(cell: Cell, epochs: int, output: Path, metric: str = 'top1') -> Row:
    """A row of runs.csv: eval top-1 in percent of the last and of the best epoch, which is counted from 1.

    Args:
        cell: The run.
        epochs: That make it complete.
        output: Directory of the grid.
        metric: By which the best epoch is chosen: ``--eval-metric`` of the run.
    """
    rows = cell.rows()
    row: Row = dict.fromkeys(RUN_COLUMNS)
    row.update(model=cell.model, seed=cell.seed, epochs=len(rows), complete=int(cell.trained(epochs)),
               run=cell.run.relative_to(output).as_posix())
    if rows:
        best = best_row(rows, metric)
        row.update(weights=weights_of(rows[-1]), last=evaluated(rows[-1], 'top1'))
        if best is not None:
            row.update(best=evaluated(best, 'top1'), best_epoch=best['epoch'] + 1)
        for name, checkpoint in (('test_last', state.LAST), ('test_best', state.BEST)):
            row[name] = (cell.test_result(checkpoint) or {}).get('top1')
    return row


def model_rows(run_rows: Sequence[Row]) -> List[Row]:
    """A row of results.csv for each model, over its complete runs; the standard deviation is the sample's (n - 1)."""
    rows = []
    for model in dict.fromkeys(row['model'] for row in run_rows):
        runs = [r for r in run_rows if r['model'] == model and r['complete']]
        row: Row = dict.fromkeys(MODEL_COLUMNS)
        row.update(model=model, n=len(runs), epochs=max((r['epochs'] for r in runs), default=0),
                   weights='+'.join(sorted({r['weights'] for r in runs})),
                   seeds=' '.join(str(r['seed']) for r in runs))
        for measure in _MEASURES:
            values = [r[measure] for r in runs if r[measure] is not None]
            if values and len(values) == len(runs):
                row.update({f'{measure}_mean': statistics.fmean(values), f'{measure}_min': min(values),
                            f'{measure}_max': max(values),
                            f'{measure}_std': statistics.stdev(values) if len(values) > 1 else None})
        rows.append(row)
    return rows


def write_rows(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Write a CSV; None is an empty cell.

    Raises:
        IEBNZooError: It cannot be written.
    """
    with atomic_write(path, 'w', newline='') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({k: f'{v:.6g}' if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table of results.csv: mean and standard deviation over the seeds."""
    titles = {'last': 'last top-1 (%)', 'best': 'best top-1 (%)', 'test_last': 'test, last (%)',
              'test_best': 'test, best (%)'}
    shown = [m for m in _MEASURES if any(row[f'{m}_mean'] is not None for row in rows)]
    lines = ['| model | n | ' + ''.join(f'{titles[m]} | ' for m in shown) + 'epochs |',
             '|---|---' + '|---' * len(shown) + '|---|']
    for row in rows:
        cells = ''.join(f'{_mean_and_std(row, m)} | ' for m in shown)
        lines.append(f"| {row['model']} | {row['n']} | {cells}{row['epochs']} |")
    return '\n'.join(lines)


def _mean_and_std(row: Row, measure: str) -> str:
    mean, std = row[f'{measure}_mean'], row[f'{measure}_std']
    if mean is None:
        return ''
    return f'{mean:.2f}' if std is None else f'{mean:.2f} ± {std:.2f}'
