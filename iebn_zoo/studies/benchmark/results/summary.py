"""The summary of all ratios: the geometric mean and the worst, per setting, mode and variant."""
import statistics
from typing import Dict, List, Sequence, Tuple

from iebn_zoo.studies.benchmark.results.report import Row

UNSTEADY = 0.25  # interquartile range over median
_LINE = '{:<5}  {:<24} {:<8} {:<9} {:>3} {:>14} {:>6}  {}'


def summarize(rows: Sequence[Row]) -> List[str]:
    """Make the lines of a table, with ratios of layers and of models apart. The last lines count the rows that failed
    and those that are too unsteady to be quoted.
    """
    groups: Dict[Tuple[str, ...], List[Row]] = {}
    for row in rows:
        if row['ratio'] is not None and row['variant'] != row['baseline']:
            groups.setdefault(tuple(row[k] for k in ('kind', 'setting', 'mode', 'variant')), []).append(row)
    lines = [_LINE.format('kind', 'setting', 'mode', 'variant', 'n', 'geometric mean', 'worst', 'of')] if groups else []
    for key, members in groups.items():
        worst = max(members, key=lambda row: row['ratio'])
        mean = statistics.geometric_mean(row['ratio'] for row in members)
        lines.append(_LINE.format(*key, len(members), f'{mean:.3f}', f"{worst['ratio']:.2f}", worst['name']))
    failed = sum(row['error'] is not None for row in rows)
    if failed:
        lines.append(f'{failed} of {len(rows)} rows failed; the column error tells why.')
    unsteady = sum(not row['error'] and row['time_iqr_ms'] > UNSTEADY * row['time_ms'] for row in rows)
    if unsteady:
        lines.append(f'{unsteady} of {len(rows)} times spread by more than {UNSTEADY:.0%} of their median: do not '
                     f'quote them. Measure on a quiet machine, in more rounds.')
    return lines
