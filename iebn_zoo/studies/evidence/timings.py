"""The days on which a benchmark was measured: their rows, and the table of their ratios.

A benchmark is a CSV of ``iebn-zoo benchmark``. Another day is a file beside it, NAME_day2.csv and so on: machines that
others share differ from day to day by more than one run tells.
"""
import math
import re
import statistics
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Sequence, Tuple

from iebn_zoo.studies.benchmark.results.report import Row, read_rows
from iebn_zoo.studies.compare.table import rows_as_markdown
from iebn_zoo.util.errors import UsageError


class Benchmark(NamedTuple):
    """A benchmark.

    Attributes:
        words: The setting.
        files: Of its first day; a later one replaces what it measures again.
        kept_memory: Whether it was measured with ``--keep-memory``.
    """

    words: str
    files: Tuple[str, ...]
    kept_memory: bool = False


BENCHMARKS: Dict[str, Benchmark] = {
    'cpu_float32': Benchmark('float32', ('cpu_float32.csv', 'cpu_inference.csv')),
    'cpu_compile': Benchmark('torch.compile', ('cpu_compile.csv',)),
    'cpu_kept_memory': Benchmark('float32, freed memory kept', ('cpu_kept_memory.csv',), kept_memory=True),
}
_DAY = re.compile(r'_day(\d+)\.csv')
_VARIANTS = {'iebn': 'IEBN', 'naive': 'naive formula', 'se': 'SE', 'eca': 'ECA'}
_NUMBERS = ('no', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten')
_MODES = {'train': ('train step', 'forward and backward'), 'infer': ('inference', 'inference')}  # of a network, a layer
Days = Mapping[str, Sequence[Row]]


def measured(root: Path, name: str) -> bool:
    """Tell whether a benchmark has a file below ``root``."""
    return any((root / file).is_file() for file in BENCHMARKS[name].files) or bool(_later(root, name))


def read_days(root: Path, name: str) -> Dict[str, List[Row]]:
    """Read the rows of a benchmark by day: 'day 1', 'day 2' and so on; '' if there is one day alone.

    Raises:
        UsageError: A file is missing or damaged, or was not measured like those of the first day.
    """
    kept = BENCHMARKS[name].kept_memory
    first = _merged([_read(root / file, kept) for file in BENCHMARKS[name].files])
    later = {f'day {day}': _like(first, _read(path, kept), path) for day, path in _later(root, name).items()}
    return {'day 1' if later else '': first, **later}


def machines(days: Days) -> str:
    """Name the processor with its threads and torch, or a line for each of several, with its days."""
    found: Dict[str, List[str]] = {}
    for day, rows in days.items():
        first = rows[0]
        found.setdefault(f"{first['cpu']}, {first['threads']} threads, torch {first['torch']}", []).append(day)
    if len(found) == 1:
        return next(iter(found))
    return '\n'.join(f'{words} ({", ".join(own)})' for words, own in found.items())


def times_table(days: Days) -> str:
    """Write a line per network and mode and a line per mode of the layers: the ratio to BatchNorm's time of each
    variant, the median over the days with the smallest and the largest. Of layers it is the geometric mean.

    Args:
        days: Of ``read_days``.

    Raises:
        UsageError: No day has a ratio.
    """
    every = [row for rows in days.values() for row in rows if row['ratio'] is not None]
    cells = [(line, {variant: cell for variant in _VARIANTS if (cell := _cell(days, line, variant))})
             for line in _lines(every)]
    shown = [variant for variant in _VARIANTS if any(variant in found for _, found in cells)]
    if not shown:
        raise UsageError('no day of the benchmark has a ratio.\nMeasure it with iebn-zoo benchmark.')
    head = f"time / BatchNorm's, {_count(len(days))} day{'s' if len(days) > 1 else ''}"
    return rows_as_markdown(cells, [(head, lambda cell: cell[0].words), *[
        (_VARIANTS[variant], lambda cell, variant=variant: cell[1].get(variant, '')) for variant in shown]])


class _Line(NamedTuple):
    """What a line tells of: the rows of one setting, network (or all layers) and mode, and its words."""

    words: str
    setting: str
    kind: str
    name: str  # of the network; '' for all layers
    mode: str
    suffix: str  # of the variants that have a ReLU behind the norm


def _lines(rows: Sequence[Row]) -> List[_Line]:
    settings = list(dict.fromkeys(row['setting'] for row in rows))
    lines: Dict[Tuple[str, ...], _Line] = {}
    for setting in settings:
        own = [row for row in rows if row['setting'] == setting]
        tail = f', {setting}' if len(settings) > 1 else ''
        for row in (row for row in own if row['kind'] == 'model'):
            size, what = row['input_shape'].split('x'), _MODES[row['mode']][0]
            words = f"`{row['name']}`, batch {size[0]}, {size[-1]} px: {what}{tail}"
            lines.setdefault((setting, row['name'], row['mode']),
                             _Line(words, setting, 'model', row['name'], row['mode'], ''))
        layers = [row for row in own if row['kind'] == 'layer']
        number = len({row['name'] for row in layers})
        for mode, (_, what) in _MODES.items():
            words = {'': f'{_count(number)} layer shape{"s" if number > 1 else ""}, {what}: geometric mean{tail}',
                     '_relu': 'the same with ReLU behind the norm'}
            for suffix in words:
                if any((row['mode'], row['variant']) == (mode, f'iebn{suffix}') for row in layers):
                    lines[setting, suffix, mode, ''] = _Line(words[suffix], setting, 'layer', '', mode, suffix)
    return list(lines.values())


def _cell(days: Days, line: _Line, variant: str) -> str:
    ratios = []
    for rows in days.values():
        found = [row['ratio'] for row in rows if row['ratio'] is not None and line.name in ('', row['name'])
                 and (row['setting'], row['kind'], row['mode']) == (line.setting, line.kind, line.mode)
                 and row['variant'] == variant + line.suffix]
        if found:
            ratios.append(statistics.geometric_mean(found))
    if not ratios:
        return ''
    median = f'{statistics.median(ratios):.2f}'
    return median if len(ratios) == 1 else f'{median} ({min(ratios):.2f} to {max(ratios):.2f})'


def _count(number: int) -> str:
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)


def _read(path: Path, kept_memory: bool) -> List[Row]:
    rows = read_rows(path)
    for row in rows:
        ratio = row['ratio']
        if row['mode'] not in _MODES or not re.fullmatch(r'\d+(x\d+)+', row['input_shape'] or '') or (
                ratio is not None and not 0 < ratio < math.inf):
            raise UsageError(f"{path} cannot be read: {row['name']} has mode {row['mode']}, shape "
                             f"{row['input_shape']}, ratio {ratio}.\nExpected the CSV that iebn-zoo benchmark writes.")
    odd = next((row for row in rows if bool(row['kept_memory']) != kept_memory), None)
    if odd is not None:
        raise UsageError(f"{path}: {odd['name']} was measured {'without' if kept_memory else 'with'} --keep-memory.\n"
                         f"Measure it {'with' if kept_memory else 'without'} that flag.")
    return rows


def _like(first: Sequence[Row], rows: List[Row], path: Path) -> List[Row]:
    # figures of another size or of other layers would look like a spread over days
    for kind in ('model', 'layer'):
        then, now = ({(row['setting'], row['name'], row['input_shape'], row['threads']) for row in day
                      if row['kind'] == kind} for day in (first, rows))
        odd = next(iter(sorted(now - then if kind == 'model' else now ^ then, key=str)), None) if now else None
        if odd is not None:
            raise UsageError(f'{path}: {odd[1]}, {odd[2]}, {odd[0]}, {odd[3]} threads, is in one of the days alone.\n'
                             f'Measure every day with the same flags.')
    return rows


def _later(root: Path, name: str) -> Dict[int, Path]:
    found: Dict[int, Path] = {}
    for path in sorted(root.glob(f'{name}_day*.csv')):
        match = _DAY.fullmatch(path.name.removeprefix(name))
        if match and found.setdefault(int(match[1]), path) != path:
            raise UsageError(f'{found[int(match[1])]} and {path} are of one day.\nRename one of them.')
    return dict(sorted(found.items()))


def _merged(files: Sequence[Sequence[Row]]) -> List[Row]:
    def key(row: Row) -> Tuple[str, ...]:
        return tuple(row[k] for k in ('name', 'setting', 'mode', 'variant'))

    rows = {key(row): row for row in files[0]}
    # what the first file does not measure belongs to another picture
    rows.update({key(row): row for file in files[1:] for row in file if key(row) in rows})
    return list(rows.values())
