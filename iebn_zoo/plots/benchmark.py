"""The picture of a benchmark: ratios of times as points, one per measurement."""
import math
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, NullLocator

from iebn_zoo.plots.style import colour, save

Row = Mapping[str, Any]  # of a benchmark's CSV: the columns that are read here
WIDTH = 8.6  # inches of every picture, so that its text can be read at the width of a page
_TICKS = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 50, 100]
_WORDS = {'naive': 'naive formula', 'se': 'SE', 'eca': 'ECA', 'iebn': 'IEBN', 'folded': 'folded IEBN',
          'iebn_relu': 'IEBN + ReLU, to BatchNorm + ReLU'}
_MODES = {'train': 'forward and backward, a train step', 'infer': 'inference'}
_COLOURS = {'iebn': 0, 'iebn_relu': 5, 'se': 1, 'eca': 4, 'naive': 2, 'folded': 3}  # the same in every picture
_MARKERS = ('o', 'D', '^', 's', 'v', 'P')


def draw(path: Path, rows: Sequence[Row], title: str = '') -> bool:
    """Draw the measurement of one day; see ``draw_days``."""
    return draw_days(path, {'': rows}, title)


def draw_days(path: Path, days: Mapping[str, Sequence[Row]], title: str = '') -> bool:
    """Draw a panel per setting and mode: each variant's median ratio as a point per day, with a line as long as its
    interquartile range.

    Args:
        path: PNG to write.
        days: Rows of the report, by the name that the legend shows; those without a ratio are skipped.
        title: Title of the picture; empty for the machine of the first row.

    Returns:
        Whether there was anything to draw.

    Raises:
        IEBNZooError: The file cannot be written.
    """
    days = {day: [row for row in rows if row.get('ratio') is not None and row['variant'] != row['baseline']]
            for day, rows in days.items()}
    every = [row for rows in days.values() for row in rows]
    if not every:
        return False
    save(_figure(days, every, title or _machine(every[0])), path)
    return True


def _figure(days: Mapping[str, Sequence[Row]], every: Sequence[Row], title: str) -> Figure:
    settings, modes, names = (distinct(every, key) for key in ('setting', 'mode', 'name'))
    variants = in_order(distinct(every, 'variant'))
    height = (0.7 + name_inches(variants) * len(names)) * len(settings)
    fig = Figure(figsize=(WIDTH, height + 1.3), layout='constrained')
    grid = fig.subplots(len(settings), len(modes), squeeze=False, sharey=True)
    for setting, line in zip(settings, grid, strict=True):
        for mode, axes in zip(modes, line, strict=True):
            panel = {day: [row for row in rows if (row['setting'], row['mode']) == (setting, mode)]
                     for day, rows in days.items()}
            points(axes, panel, names, variants, limits([row for row in every if row['mode'] == mode]))
            axes.set_title(f'{setting}, {_MODES.get(mode, mode)}', fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("time / BatchNorm's time")
    fig.suptitle(title, fontsize=11)
    add_legend(fig, variants, list(days))
    return fig


def points(
        axes: Axes, days: Mapping[str, Sequence[Row]], names: Sequence[str], variants: Sequence[str],
        ends: Tuple[float, float],
) -> None:
    """Draw one panel.

    Args:
        axes: matplotlib's.
        days: Rows with a ratio, by day.
        names: Values of the column ``name``, places on the y axis from top to bottom.
        variants: Each has a colour, and a place beside the others of its name.
        ends: Of the x axis.
    """
    places = len(variants) * len(days)
    for i, variant in enumerate(variants):
        for j, rows in enumerate(days.values()):
            mine = [row for row in rows if row['variant'] == variant]
            if not mine:
                continue
            place = ((i * len(days) + j) - (places - 1) / 2) * 0.78 / places
            axes.errorbar([row['ratio'] for row in mine], [names.index(row['name']) + place for row in mine],
                          xerr=list(zip(*map(_sides, mine), strict=True)), linestyle='none', marker=_marker(j),
                          markersize=5, elinewidth=1, color=_colour(variant, i), markeredgecolor='white',
                          markeredgewidth=0.4)
    axes.axvline(1.0, color='black', linewidth=0.9)
    # logarithmic, because these are ratios: half and twice are equally far from 1
    axes.set_xscale('log')
    axes.set_xticks(_TICKS, [f'{tick:g}' for tick in _TICKS])
    axes.set_xlim(*ends)  # behind the ticks, which widen it
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    _thin_ticks(axes)
    axes.set_yticks(range(len(names)), names, fontsize=10)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for edge in range(1, len(names)):
        axes.axhline(edge - 0.5, color='0.85', linewidth=0.8)
    axes.set_axisbelow(True)
    axes.grid(axis='x', alpha=0.3)


def limits(rows: Sequence[Row]) -> Tuple[float, float]:
    """Return the ends of an x axis on which all points, their lines and 1 have room."""
    low = min([0.9, *(row['ratio'] - _sides(row)[0] for row in rows)])
    high = max([1.1, *(row['ratio'] + _sides(row)[1] for row in rows)])
    return low / 1.06, high * 1.06


def name_inches(variants: Sequence[str]) -> float:
    """Return the height that the points of one name need."""
    return 0.11 * len(variants) + 0.14


def add_legend(fig: Figure, variants: Sequence[str], days: Sequence[str] = ('',)) -> None:
    """Add the legend: variants by their colours and, if there are several, days by their markers."""
    look: Dict[str, Any] = dict(linestyle='none', markersize=7)
    handles = [Line2D([], [], marker='s', color=_colour(variant, i), label=_WORDS.get(variant, variant), **look)
               for i, variant in enumerate(variants)]
    if len(days) > 1:
        handles += [Line2D([], [], marker=_marker(j), color='0.4', label=day, **look) for j, day in enumerate(days)]
    fig.legend(handles=handles, loc='outside lower center', ncols=4, frameon=False, fontsize=10)


def in_order(variants: Sequence[str]) -> List[str]:
    """Return the variants with those that have a colour of their own first, IEBN before the others."""
    known = list(_COLOURS)
    return sorted(variants, key=lambda v: known.index(v) if v in known else len(known))


def distinct(rows: Sequence[Row], key: str) -> List[Any]:
    """Return the values of a column in the order in which they appear."""
    return list(dict.fromkeys(row[key] for row in rows))


def _thin_ticks(axes: Axes) -> None:
    # labels of ticks that lie nearer than a ninth of the axis run into each other
    low, high = axes.get_xlim()
    kept: List[float] = []
    for tick in sorted(_TICKS, key=lambda t: (t != 1, t not in (0.1, 0.5, 2, 5, 10), t)):
        if low <= tick <= high and all(abs(_share(tick, other, low, high)) > 1 / 9 for other in kept):
            kept.append(tick)
    axes.set_xticks(sorted(kept), [f'{tick:g}' for tick in sorted(kept)])


def _share(tick: float, other: float, low: float, high: float) -> float:
    return math.log(tick / other) / math.log(high / low)


def _sides(row: Row) -> Tuple[float, float]:
    # half of the interquartile range to each side; the lower end stays above 0, because the axis is logarithmic
    return min(row['ratio_iqr'] / 2, 0.9 * row['ratio']), row['ratio_iqr'] / 2


def _colour(variant: str, place: int) -> str:
    return colour(_COLOURS.get(variant, place))


def _marker(day: int) -> str:
    return _MARKERS[day % len(_MARKERS)]


def _machine(row: Row) -> str:
    return f"{row['gpu'] or row['cpu']}, {row['threads']} CPU threads, torch {row['torch']}"
