"""batch_noise.csv: a line a layer and an epoch."""
import csv
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

from iebn_zoo.studies.noise.measure import LayerNoise
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.files import atomic_write

LAYERS = 'batch_noise.csv'
COLUMNS = ('epoch', 'layer', 'channels', 'batch_variance', 'instance_variance', 'batch_noise')


def layer_rows(epoch: int, layers: Sequence[LayerNoise]) -> List[Dict[str, Any]]:
    """The measure of one epoch as rows."""
    return [{'epoch': epoch, **{k: getattr(layer, k) for k in COLUMNS[1:]}} for layer in layers]


def write_layers(run: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``batch_noise.csv`` of a run."""
    with atomic_write(run / LAYERS, 'w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def read_layers(run: Path) -> List[Dict[str, Any]]:
    """Rows of ``batch_noise.csv``; none where a run has no such file.

    Raises:
        UsageError: It is not what ``write_layers`` writes.
    """
    path = run / LAYERS
    if not path.is_file():
        return []
    with open(path, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    try:
        return [dict(epoch=int(r['epoch']), layer=r['layer'], channels=int(r['channels']),
                     **{k: float(r[k]) for k in COLUMNS[3:]}) for r in rows]
    except (KeyError, TypeError, ValueError) as e:
        raise UsageError(f'{path} is damaged ({e}).\nExpected the columns {", ".join(COLUMNS)}.') from e
