"""batch_noise.csv: one line per layer and epoch."""
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

from iebn_zoo.studies.noise.measure import LayerNoise
from iebn_zoo.util.csv_files import read_csv, write_csv
from iebn_zoo.util.errors import UsageError

LAYERS = 'batch_noise.csv'
COLUMNS = ('epoch', 'layer', 'channels', 'batch_variance', 'instance_variance', 'batch_noise')


def layer_rows(epoch: int, layers: Sequence[LayerNoise]) -> List[Dict[str, Any]]:
    """Return the measure of one epoch as rows."""
    return [{'epoch': epoch, **{k: getattr(layer, k) for k in COLUMNS[1:]}} for layer in layers]


def write_layers(run: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``batch_noise.csv`` of a run, or remove it where there are no rows."""
    if rows:
        write_csv(run / LAYERS, rows, COLUMNS)
    else:
        (run / LAYERS).unlink(missing_ok=True)


def read_layers(run: Path) -> List[Dict[str, Any]]:
    """Read the rows of ``batch_noise.csv``; none if the run has no such file.

    Raises:
        UsageError: The file is damaged.
    """
    path = run / LAYERS
    if not path.is_file():
        return []
    try:
        kinds = {**dict.fromkeys(COLUMNS, float), 'epoch': int, 'layer': str, 'channels': int}
        rows = read_csv(path, kinds, rest=str)
        return [{column: row[column] for column in COLUMNS} for row in rows]
    except (KeyError, TypeError, ValueError) as e:
        raise UsageError(f'{path} is damaged ({e}).\nExpected the columns {", ".join(COLUMNS)}.') from e
