"""The picture of the GPU table: kernels of layers above, whole steps of networks below."""
from pathlib import Path
from typing import Sequence

from matplotlib.figure import Figure

from iebn_zoo.plots.benchmark import WIDTH, Row, add_legend, distinct, in_order, limits, name_inches, points
from iebn_zoo.plots.style import save

PANELS = (('layer', ('forward', 'backward', 'infer')), ('model', ('train', 'infer')))


def draw(path: Path, rows: Sequence[Row]) -> bool:
    """Draw a panel per kind and mode: each variant's ratio as a point, with a line as long as its spread.

    Args:
        path: PNG to write.
        rows: Rows of the table, with how each ran in ``setting``; those without a ratio are skipped.

    Returns:
        Whether there was anything to draw.
    """
    rows = [dict(row, name=row['name'] if row['setting'] == 'graph' and row['kind'] == 'layer' else
                 f"{row['name']}, {row['setting']}")
            for row in rows if row['ratio'] is not None and row['variant'] != row['baseline']]
    panels = [(kind, mode) for kind, modes in PANELS for mode in modes
              if any((row['kind'], row['mode']) == (kind, mode) for row in rows)]
    if not panels:
        return False
    variants = in_order(distinct(rows, 'variant'))
    parts = [[row for row in rows if (row['kind'], row['mode']) == panel] for panel in panels]
    heights = [0.7 + name_inches(variants) * len(distinct(part, 'name')) for part in parts]
    fig = Figure(figsize=(WIDTH, sum(heights) + 1.3), layout='constrained')
    column = fig.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for (kind, mode), part, axes in zip(panels, parts, column[:, 0], strict=True):
        points(axes, {'': part}, distinct(part, 'name'), variants, limits(part))
        axes.set_title(f'{kind}s, {mode}: ' + ('GPU time of the kernels, cold L2' if kind == 'layer' else
                                               'time of a step'), fontsize=10)
    column[-1, 0].set_xlabel("time / BatchNorm's time")
    first = rows[0]
    what = (f"{first['gpu'] or first['cpu']}\ntorch {first['torch']}, CUDA {first['cuda']}, Triton {first['triton']}, "
            f"timm {first['timm']}")
    fig.suptitle(f'DRY RUN, no measurement: {what}' if first['dry_run'] else what, fontsize='medium')
    add_legend(fig, variants)
    save(fig, path)
    return True
