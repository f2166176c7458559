"""The picture of the GPU table: kernels of layers above, whole steps of networks below."""
from pathlib import Path
from typing import Sequence

from matplotlib.figure import Figure

from iebn_zoo.plots.benchmark import Row, bars, save

PANELS = (('layer', ('forward', 'backward', 'infer')), ('model', ('train', 'infer')))


def draw(path: Path, rows: Sequence[Row]) -> bool:
    """Draw a panel per kind and mode: bars from 1 to each variant's ratio, with error bars as long as its spread.

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
    variants = list(dict.fromkeys(row['variant'] for row in rows))
    widest = max(len({row['name'] for row in rows if (row['kind'], row['mode']) == panel}) for panel in panels)
    size = (max(7.0, 2.0 + 0.13 * widest * len(variants)), 1.2 + 2.8 * len(panels))
    fig = Figure(figsize=size, layout='constrained')
    column = fig.subplots(len(panels), 1, squeeze=False)
    for (kind, mode), axes in zip(panels, column[:, 0], strict=True):
        panel = [row for row in rows if (row['kind'], row['mode']) == (kind, mode)]
        title = f'{kind}s, {mode}: ' + ('GPU time of the kernels, cold L2' if kind == 'layer' else 'time of a step')
        bars(axes, panel, list(dict.fromkeys(row['name'] for row in panel)), variants, title)
    first = rows[0]
    what = (f"{first['gpu'] or first['cpu']}\ntorch {first['torch']}, CUDA {first['cuda']}, Triton {first['triton']}, "
            f"timm {first['timm']}")
    fig.suptitle(f'DRY RUN, no measurement: {what}' if first['dry_run'] else what, fontsize='medium')
    save(fig, path, variants)
    return True
