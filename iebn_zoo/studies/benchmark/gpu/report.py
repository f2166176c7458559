"""From records to rows: ratios, bandwidths, and the CSV that is complete after every row."""
import statistics
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import torch

from iebn_zoo.studies.benchmark import machine
from iebn_zoo.studies.benchmark.gpu.parts import Job
from iebn_zoo.studies.benchmark.results.report import Row, interquartile_range, write_rows
from iebn_zoo.studies.benchmark.variants import VARIANTS, baseline

FACTS = (*machine.FACTS, 'cuda', 'cudnn', 'triton')
COLUMNS = (
    'kind', 'name', 'input_shape', 'setting', 'mode', 'execution', 'compile', 'variant', 'baseline', 'time_ms',
    'time_iqr_ms', 'host_ms', 'ratio', 'ratio_iqr', 'images_per_s', 'gb_per_s', 'copy_share', 'peak_mb', 'rounds',
    'error', 'seed', 'dry_run', *FACTS)
_TABLE = '{:<5} {:<16} {:<8} {:<8} {:<9} {:>10} {:>8} {:>6} {:>6} {:>9} {:>9}'
HEADER = _TABLE.format('kind', 'name', 'mode', 'how', 'variant', 'ms', '+-', 'ratio', '+-', 'host ms', 'images/s')


def facts(device: torch.device) -> Dict[str, Any]:
    """Return hardware and versions under the names of ``FACTS``."""
    try:
        from triton import __version__ as triton
    except ImportError:
        triton = None
    cudnn = torch.backends.cudnn.version() if device.type == 'cuda' else None
    return dict(machine.facts(device), cuda=torch.version.cuda, cudnn=cudnn, triton=triton)


def _key(record: Mapping[str, Any]) -> Tuple[Any, ...]:
    return tuple(record[k] for k in ('kind', 'name', 'setting', 'mode', 'execution', 'variant'))


class Table:
    """The rows so far, and their file.

    Args:
        path: CSV; written as a whole after each row, so that it is always valid.
        facts: About the machine.
        dry_run: Marks every row.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], dry_run: bool) -> None:
        self.path, self.facts, self.dry_run = path, facts, dry_run
        self.rows: List[Row] = []
        self._reported: set = set()
        self._seconds: Dict[Tuple[Any, ...], Sequence[float]] = {}

    def add(self, job: Job, record: Mapping[str, Any]) -> List[Row]:
        """Take a record; return its row, or nothing if the record is a reference of others.

        Raises:
            IEBNZooError: The file cannot be written.
        """
        if record.get('seconds'):
            self._seconds[_key(record)] = record['seconds']
        if record['is_reference']:
            return []
        row = self._row(job, record)
        self.rows.append(row)
        self._reported.add(_key(record))
        write_rows(self.path, self.rows, COLUMNS)
        return [row]

    def add_missing(self, job: Job, why: str) -> List[Row]:
        """Add rows with ``why`` as their error for all that a job has failed to report."""
        missing = [r for r in job.expected() if _key(r) not in self._reported]
        return [row for record in missing for row in self.add(job, dict(record, error=why))]

    def _row(self, job: Job, record: Mapping[str, Any]) -> Row:
        variant, setting = record['variant'], job.setting(record['setting'])
        row: Row = dict.fromkeys(COLUMNS)
        row.update(self.facts, **{k: record[k] for k in (
            'kind', 'name', 'setting', 'mode', 'execution', 'variant', 'seed')})
        row.update(input_shape='x'.join(map(str, record['shape'])), compile=setting.compiler, dry_run=self.dry_run,
                   baseline=baseline(variant) if variant in VARIANTS else None, error=record.get('error'), rounds=0)
        seconds = record.get('seconds')
        if row['error'] or not seconds:
            row['error'] = row['error'] or 'no sample'
            return row
        typical = statistics.median(seconds)
        row.update(time_ms=1e3 * typical, time_iqr_ms=1e3 * interquartile_range(seconds), rounds=len(seconds))
        if record.get('host_seconds'):
            row['host_ms'] = 1e3 * statistics.median(record['host_seconds'])
        base = self._seconds.get((*_key(record)[:-1], row['baseline']))
        if base:
            ratios = [a / b for a, b in zip(seconds, base, strict=False)]
            row.update(ratio=statistics.median(ratios), ratio_iqr=interquartile_range(ratios))
        if record['kind'] == 'model':
            row['images_per_s'] = record['shape'][0] / typical
        if record.get('bytes'):
            row['gb_per_s'] = record['bytes'] / typical / 1e9
        if record.get('copy_seconds'):
            row['copy_share'] = statistics.median(record['copy_seconds']) / typical
        if record.get('peak_bytes'):
            row['peak_mb'] = record['peak_bytes'] / 1e6
        return row


def labelled(rows: Sequence[Row]) -> List[Row]:
    """Copy rows, with how they ran as ``setting``: summaries and pictures read no column ``execution``."""
    several = len({row['setting'] for row in rows}) > 1
    return [dict(row, setting=f"{row['setting']}, {row['execution']}" if several else row['execution'])
            for row in rows]


def table_line(row: Row) -> str:
    """Format a row for people."""
    start = [row[k] for k in ('kind', 'name', 'mode', 'execution', 'variant')]
    if row['error']:
        return f"{_TABLE.format(*start, *[''] * 6).rstrip()}  failed: {row['error'].splitlines()[0]}"
    numbers = ['' if row[key] is None else f'{row[key]:.{digits}f}' for key, digits in (
        ('time_ms', 4), ('time_iqr_ms', 4), ('ratio', 2), ('ratio_iqr', 2), ('host_ms', 3), ('images_per_s', 0))]
    share = '' if row['gb_per_s'] is None else f"  {row['gb_per_s']:.0f} GB/s"
    if row['copy_share'] is not None:
        share += f", {100 * row['copy_share']:.0f} % of a copy's"
    return (_TABLE.format(*start, *numbers) + share).rstrip()
