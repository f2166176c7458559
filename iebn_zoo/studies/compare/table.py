"""The table of a grid in Markdown."""
import math
import re
import statistics
from functools import partial
from typing import Any, Callable, List, Optional, Sequence, Tuple

from iebn_zoo.studies.compare.results import MEASURES, Row, gate_columns
from iebn_zoo.studies.compare.welch import contrast_interval
from iebn_zoo.util.ranking import sample_deviation

_TITLES = {'last': 'last top-1 (%)', 'best': 'best top-1 (%)', 'test_last': 'test, last (%)',
           'test_best': 'test, best (%)'}
DIVERGED = 'diverged'
_SPREAD = 'gate_instance_spread_'


def markdown(rows: Sequence[Row]) -> str:
    """Format the rows of results.csv as a Markdown table.

    Mean and sample standard deviation over the seeds, or ``diverged`` where a run has diverged; the difference to the
    baseline with its 95 % interval, in bold where that excludes 0; the training loss of the last epoch; and, of runs
    with ``--gate-stats``, the standard deviation of the gates over images, stage by stage, at the end.
    """
    return rows_as_markdown(rows, _columns(rows))


def rows_as_markdown(rows: Sequence[Any], columns: Sequence[Tuple[str, Callable[[Any], str]]]) -> str:
    """Write a Markdown table.

    Args:
        rows: What the lines are about.
        columns: For each its title, and what makes the text of its cell of a row.
    """
    lines = [[title for title, _ in columns], *([cell(row) for _, cell in columns] for row in rows)]
    lines = [f'| {" | ".join(cells)} |' for cells in lines]
    return '\n'.join([lines[0], '|' + '---|' * len(columns), *lines[1:]])


def _columns(rows: Sequence[Row]) -> List[Tuple[str, Callable[[Row], str]]]:
    named = any(row['arm'] != row['model'] for row in rows)
    baseline = next((row['baseline'] for row in rows if row['baseline']), None)
    columns = [('arm' if named else 'model', lambda row: row['arm']), ('n', count)]
    for measure in MEASURES:
        if any(mean_and_std(measure, row) for row in rows):
            columns.append((_TITLES[measure], partial(mean_and_std, measure)))
            if baseline:
                columns.append((f'difference to {baseline}', partial(difference, measure)))
    if named and any(row['train_loss_mean'] is not None for row in rows):
        columns.append(('training loss', lambda row: _number(row['train_loss_mean'])))
    stages = [c for c in gate_columns(rows) if c.startswith(_SPREAD)]
    if stages:
        columns.append((f'gate spread over images ({_stages(stages)})', partial(_gates, stages)))
    return [*columns, ('epochs', lambda row: str(row['epochs']))]


def count(row: Row) -> str:
    """Write the number of complete runs of an arm, and how many of them have diverged."""
    return f"{row['n']} ({row['diverged']} diverged)" if row['diverged'] else str(row['n'])


def _stages(columns: Sequence[str]) -> str:
    return ', '.join(re.sub(r'(?<=[a-z])(?=\d)', ' ', column[len(_SPREAD):]) for column in columns)


def _gates(stages: Sequence[str], row: Row) -> str:
    values = [row.get(column) for column in stages]
    return '' if all(value is None for value in values) else ', '.join(map(_number, values))


def _number(value: Optional[float]) -> str:
    return '' if value is None else f'{value:.3f}'


def mean_and_std(measure: str, row: Row) -> str:
    """Write ``52.18 ± 0.12`` for one of ``MEASURES`` of an arm; without the deviation for one run, empty for none,
    ``diverged`` where a run has no such figure because it diverged."""
    mean, std = row[f'{measure}_mean'], row[f'{measure}_std']
    if mean is None and measure in ('last', 'best') and row['diverged']:
        return DIVERGED
    return _mean_and_std(mean, std, 2)


def difference(measure: str, row: Row) -> str:
    """Write ``+2.27 (+1.23 to +3.32)``: the difference of an arm to the baseline with its 95 % interval, in bold where
    that excludes 0; without the interval where a side has one run, empty where there is no baseline."""
    mean, low, high = (row[f'{measure}_{k}'] for k in ('diff', 'diff_low', 'diff_high'))
    return _difference(mean, low, high, 2)


def values_and_spread(values: Sequence[float], digits: int) -> str:
    """Write mean and sample standard deviation of the values of seeds, as ``mean_and_std``; NaN is of a run that has
    diverged."""
    if not all(map(math.isfinite, values)):
        return DIVERGED
    std = sample_deviation(values) if len(values) > 1 else None
    return _mean_and_std(statistics.fmean(values) if values else None, std, digits)


def values_difference(values: Sequence[float], baseline: Sequence[float], digits: int) -> str:
    """Write the difference of the means of two lists with Welch's 95 % interval, as ``difference``."""
    return values_contrast([(1, values), (-1, baseline)], digits)


def values_contrast(terms: Sequence[Tuple[float, Sequence[float]]], digits: int) -> str:
    """Write a weighted sum of the means of several lists with its 95 % interval, as ``difference``; empty where one of
    the lists is, or has a value that is not finite."""
    if not all(values and all(map(math.isfinite, values)) for _, values in terms):
        return ''
    found = contrast_interval(terms)
    mean = sum(weight * statistics.fmean(values) for weight, values in terms)
    return _difference(mean, found and found.low, found and found.high, digits)


def _mean_and_std(mean: Optional[float], std: Optional[float], digits: int) -> str:
    if mean is None:
        return ''
    return f'{mean:.{digits}f}' if std is None else f'{mean:.{digits}f} ± {std:.{digits}f}'


def _difference(mean: Optional[float], low: Optional[float], high: Optional[float], digits: int) -> str:
    if mean is None:
        return ''
    if low is None or high is None:
        return f'{mean:+.{digits}f}'
    text = f'{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})'
    return f'**{text}**' if low > 0 or high < 0 else text
