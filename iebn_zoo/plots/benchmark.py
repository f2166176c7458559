"""The ratios as bars."""
from pathlib import Path
from typing import Any, List, Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from iebn_zoo.plots import style

Row = Mapping[str, Any]  # of a benchmark's CSV: the columns that are read here


def draw(path: Path, rows: Sequence[Row]) -> bool:
    """Draw a panel for each setting and mode: bars from 1 to each variant's median ratio, error bars as long as its
    spread.

    Args:
        path: PNG to write.
        rows: Of the report; those without a ratio are left out.

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
    fig.suptitle(f"{rows[0]['gpu'] or rows[0]['cpu']}, {rows[0]['threads']} CPU threads, torch {rows[0]['torch']}")
    save(fig, path, variants)
    return True


def bars(axes: Any, rows: Sequence[Row], names: Sequence[str], variants: Sequence[str], title: str) -> None:
    """Draw one panel.

    Args:
        axes: matplotlib's.
        rows: With a ratio.
        names: Places on the x axis, values of the column ``name``.
        variants: Each a color.
        title: Of the panel.
    """
    width = 0.8 / len(variants)
    for i, variant in enumerate(variants):
        mine = [row for row in rows if row['variant'] == variant]
        axes.bar([names.index(row['name']) + (i - (len(variants) - 1) / 2) * width for row in mine],
                 [row['ratio'] - 1 for row in mine], width, bottom=1, color=f'C{i}', error_kw=dict(lw=0.8),
                 yerr=[min(row['ratio_iqr'] / 2, 0.9 * row['ratio']) for row in mine])
    axes.axhline(1.0, color='black', lw=0.8)
    # logarithmic, because these are ratios: half and twice are equally far from 1
    axes.set_yscale('log', base=2)
    axes.yaxis.set_major_formatter('{x:g}')
    axes.set(title=title, ylabel='time / BN')
    axes.set_xticks(range(len(names)), names, rotation=30, ha='right')
    axes.set_axisbelow(True)
    axes.grid(axis='y', alpha=0.3)


def save(fig: Figure, path: Path, variants: Sequence[str]) -> None:
    """Add the legend and write the PNG."""
    handles = [Patch(color=f'C{i}', label=variant) for i, variant in enumerate(variants)]
    fig.legend(handles=handles, loc='outside lower center', ncols=len(variants))
    style.save(fig, path)


def _distinct(rows: Sequence[Row], key: str) -> List[str]:
    return list(dict.fromkeys(row[key] for row in rows))
