"""The picture of a benchmark: ratios of times as bars."""
from pathlib import Path
from typing import Any, List, Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from iebn_zoo.plots import style
from iebn_zoo.plots.style import colour

Row = Mapping[str, Any]  # of a benchmark's CSV: the columns that are read here
FINE_TICKS = [tick / 10 for tick in range(3, 31)]
COARSE_TICKS = [0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128]
_CHARACTERS = 60  # of all names side by side below a panel


def draw(path: Path, rows: Sequence[Row]) -> bool:
    """Draw a panel per setting and mode: bars from 1 to each variant's median ratio, with error bars as long as its
    spread.

    Args:
        path: PNG to write.
        rows: Rows of the report; those without a ratio are skipped.

    Returns:
        Whether there was anything to draw.
    """
    rows = [row for row in rows if row['ratio'] is not None and row['variant'] != row['baseline']]
    if not rows:
        return False
    settings, modes, names, variants = (_distinct(rows, k) for k in ('setting', 'mode', 'name', 'variant'))
    size = (max(5.0, 0.8 + 0.13 * len(names) * len(variants)) * len(modes), 0.8 + 2.6 * len(settings))
    fig = Figure(figsize=size, layout='constrained')
    grid = fig.subplots(len(settings), len(modes), squeeze=False, sharex=True)
    for setting, line in zip(settings, grid, strict=True):
        for mode, axes in zip(modes, line, strict=True):
            panel = [row for row in rows if (row['setting'], row['mode']) == (setting, mode)]
            bars(axes, panel, names, variants, f'{setting}, {mode}')
    first = rows[0]
    fig.suptitle(f"{first['gpu'] or first['cpu']}\n{first['threads']} CPU threads, torch {first['torch']}",
                 fontsize='medium')
    save(fig, path, variants)
    return True


def bars(axes: Any, rows: Sequence[Row], names: Sequence[str], variants: Sequence[str], title: str) -> None:
    """Draw one panel.

    Args:
        axes: matplotlib's.
        rows: Rows with a ratio.
        names: Values of the column ``name``, places on the x axis.
        variants: Each has a colour.
        title: Title of the panel.
    """
    width = min(0.3, 0.8 / len(variants))
    lowest, highest = 1.0, 1.0
    for i, variant in enumerate(variants):
        mine = [row for row in rows if row['variant'] == variant]
        spreads = [min(row['ratio_iqr'] / 2, 0.9 * row['ratio']) for row in mine]
        axes.bar([names.index(row['name']) + (i - (len(variants) - 1) / 2) * width for row in mine],
                 [row['ratio'] - 1 for row in mine], width, bottom=1, color=colour(i), yerr=spreads,
                 error_kw=dict(lw=0.8))
        lowest = min([lowest, *(row['ratio'] - spread for row, spread in zip(mine, spreads, strict=True))])
        highest = max([highest, *(row['ratio'] + spread for row, spread in zip(mine, spreads, strict=True))])
    axes.axhline(1.0, color='black', lw=0.8)
    # logarithmic, because these are ratios: half and twice are equally far from 1
    axes.set_yscale('log')
    axes.set(title=title, ylabel='time / BN', xlim=(-0.6, len(names) - 0.4))
    ticks = FINE_TICKS if highest < 2 * lowest else COARSE_TICKS
    axes.set_yticks(ticks, [f'{tick:g}' for tick in ticks])
    axes.set_ylim(lowest / 1.08, highest * 1.08)  # behind the ticks, which widen it
    axes.yaxis.set_minor_locator(NullLocator())
    crowded = len(names) * max(map(len, names)) > _CHARACTERS
    axes.set_xticks(range(len(names)), names, rotation=30 if crowded else 0, ha='right' if crowded else 'center')
    axes.set_axisbelow(True)
    axes.grid(axis='y', alpha=0.3)


def save(fig: Figure, path: Path, variants: Sequence[str]) -> None:
    """Add the legend and write the PNG."""
    handles = [Patch(color=colour(i), label=variant) for i, variant in enumerate(variants)]
    fig.legend(handles=handles, loc='outside lower center', ncols=min(5, len(variants)), frameon=False)
    style.save(fig, path)


def _distinct(rows: Sequence[Row], key: str) -> List[str]:
    return list(dict.fromkeys(row[key] for row in rows))
