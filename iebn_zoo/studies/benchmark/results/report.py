"""The results: one row per variant, as a table for people and as CSV."""
import statistics
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from iebn_zoo.studies.benchmark.machine import FACTS
from iebn_zoo.studies.benchmark.measure import Measured
from iebn_zoo.studies.benchmark.plan import Case
from iebn_zoo.studies.benchmark.variants import baseline
from iebn_zoo.util.csv_files import CSVError, read_csv, write_csv
from iebn_zoo.util.errors import UsageError

Row = Dict[str, Any]
COLUMNS = (
    'kind', 'name', 'input_shape', 'setting', 'dtype', 'memory_format', 'compile', 'mode', 'variant', 'baseline',
    'time_ms', 'time_iqr_ms', 'ratio', 'ratio_iqr', 'peak_mb', 'memory_ratio', 'bandwidth_share', 'rounds', 'error',
    'seed', *FACTS, 'kept_memory')
_NUMBERS = ('time_ms', 'time_iqr_ms', 'ratio', 'ratio_iqr', 'peak_mb', 'memory_ratio', 'bandwidth_share')
# reads and writes of the whole tensor that the norm cannot do without: (BatchNorm, IEBN). train: 2 + 1 forward,
# 4 + 1 backward. infer: IEBN reads once more, because the gate needs the mean of what it scales
PASSES = {'train': (8, 8), 'infer': (2, 3)}
_TABLE = '{:<5} {:<16} {:<24} {:<5} {:<9} {:>10} {:>8} {:>6} {:>6} {:>9} {:>6}'
HEADER = _TABLE.format('kind', 'name', 'setting', 'mode', 'variant', 'ms', '+-', 'ratio', '+-', 'peak MB', 'ratio')


def interquartile_range(values: Sequence[float]) -> float:
    """Return the third quartile minus the first, of at least two values."""
    first, _, third = statistics.quantiles(values, n=4, method='inclusive')
    return third - first


def make_rows(
        case: Case, results: Mapping[str, Measured], rounds: int, facts: Mapping[str, Any],
        bandwidth: Optional[float] = None,
) -> List[Row]:
    """Make the rows of one case. A variant that failed has an ``error`` in the place of numbers.

    Args:
        case: The case that was measured.
        results: By variant.
        rounds: Samples of each.
        facts: About the machine.
        bandwidth: Bytes per second of a copy, if the input is large enough to be compared with it.
    """
    return [_row(case, variant, results, rounds, facts, bandwidth) for variant in results]


def _row(
        case: Case, variant: str, results: Mapping[str, Measured], rounds: int, facts: Mapping[str, Any],
        bandwidth: Optional[float],
) -> Row:
    row: Row = dict.fromkeys(COLUMNS)
    row.update(
        facts, kind=case.kind, name=case.name, input_shape='x'.join(map(str, case.shape)), setting=case.setting.name,
        dtype=case.setting.dtype, memory_format='channels_last' if case.setting.channels_last else 'nchw',
        compile=case.setting.compiler, mode=case.mode, variant=variant, baseline=baseline(variant), rounds=rounds,
        seed=case.seed)
    measured, base = results[variant], results[baseline(variant)]
    if measured.error:
        return dict(row, error=measured.error, rounds=0)
    row.update(time_ms=1e3 * statistics.median(measured.seconds), peak_mb=measured.peak_bytes / 1e6,
               time_iqr_ms=1e3 * interquartile_range(measured.seconds))
    if not base.error:
        ratios = [a / b for a, b in zip(measured.seconds, base.seconds, strict=True)]
        row.update(ratio=statistics.median(ratios), ratio_iqr=interquartile_range(ratios),
                   memory_ratio=measured.peak_bytes / base.peak_bytes)
    if bandwidth and variant.startswith(('bn', 'iebn')):
        batch, channels, height, width = case.shape
        size = batch * channels * height * width * case.setting.torch_dtype.itemsize
        passes = PASSES[case.mode][variant.startswith('iebn')]
        row['bandwidth_share'] = passes * size / statistics.median(measured.seconds) / bandwidth
    return row


def write_rows(path: Path, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> None:
    """Write all rows so far; a failure leaves the old file.

    Raises:
        IEBNZooError: The file cannot be written.
    """
    write_csv(path, rows, columns, digits=6)


def read_rows(path: Path) -> List[Row]:
    """Read what ``write_rows`` has written with its default columns; an empty field becomes None.

    Raises:
        UsageError: The file is missing or damaged.
    """
    numbers = dict.fromkeys(_NUMBERS, float)
    try:
        rows = read_csv(path, {**numbers, 'rounds': int, 'seed': int, 'cpu_count': int, 'threads': int}, rest=str)
        if any(not {'name', 'setting', 'mode', 'variant', 'baseline'} <= row.keys() for row in rows):
            raise ValueError('a row has no name, setting, mode, variant or baseline')
    except (OSError, ValueError, TypeError, CSVError) as e:
        raise UsageError(f'{path} cannot be read: {e}.\nExpected the CSV that iebn-zoo benchmark writes.') from e
    return [{**dict.fromkeys(COLUMNS), **row} for row in rows]


def table_line(row: Row) -> str:
    """Format a row for people."""
    start = [row[k] for k in ('kind', 'name', 'setting', 'mode', 'variant')]
    if row['error']:
        return f"{_TABLE.format(*start, *[''] * 6).rstrip()}  failed: {row['error']}"
    numbers = [_number(row[key], digits) for key, digits in (
        ('time_ms', 3), ('time_iqr_ms', 3), ('ratio', 2), ('ratio_iqr', 2), ('peak_mb', 1), ('memory_ratio', 2))]
    share = f"  {100 * row['bandwidth_share']:.0f} % of copy bandwidth" if row['bandwidth_share'] else ''
    return _TABLE.format(*start, *numbers) + share


def _number(value: Optional[float], digits: int) -> str:
    return '' if value is None else f'{value:.{digits}f}'
