"""Runs of one recipe with several seeds and norms, for the card of one of them: runs.csv of ``iebn-zoo compare``."""
import math
import statistics
from pathlib import Path
from typing import Any, List, Mapping, NamedTuple, Sequence

from iebn_zoo.util.csv_files import CSVError, read_csv
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.ranking import sample_deviation

RUNS = 'runs.csv'
_TEXTS = ('arm', 'model', 'model_kwargs', 'weights', 'run')
_NEEDED = ('arm', 'model', 'seed', 'complete', 'last', 'best')


class Arm(NamedTuple):
    """The complete runs of one network that differ by their seed.

    Attributes:
        name: Its name in the comparison.
        model: Registered name.
        model_kwargs: Its arguments as ``KEY=VALUE ...``, or nothing.
        n: Number of runs.
        last: Top-1 of the last epoch in percent, mean and sample standard deviation, for people.
        best: The same of the best epoch.
    """

    name: str
    model: str
    model_kwargs: str
    n: int
    last: str
    best: str


def read_arms(path: Path) -> List[Arm]:
    """Read the arms of runs.csv, in its order, without the runs that were not finished; [] where there is no such file.

    Raises:
        IEBNZooError: It is there and is no runs.csv of ``iebn-zoo compare``.
    """
    if not path.is_file():
        return []
    try:
        rows = read_csv(path, dict.fromkeys(_TEXTS, str))
        complete = [row for row in rows if row['complete']]
        lacking = [(row, name) for row in complete for name in _NEEDED if name not in row]
        if lacking:
            raise ValueError(f'a row has no {lacking[0][1]}')
    except (OSError, ValueError, TypeError, KeyError, CSVError) as e:
        raise IEBNZooError(f'cannot read {path}: {e}.\nExpected runs.csv as iebn-zoo compare writes it.') from e
    names = list(dict.fromkeys(row['arm'] for row in complete))
    return [_arm(name, [row for row in complete if row['arm'] == name]) for name in names]


def holds_run(path: Path, model: str, model_kwargs: Mapping[str, Any], seed: Any, last: float) -> bool:
    """Tell whether runs.csv has a complete run of this network and seed that ended with this top-1.

    Args:
        path: A file that ``read_arms`` reads.
        model: Name of the model, as the run was given it.
        model_kwargs: Its arguments.
        seed: Seed of the run.
        last: Top-1 of its last epoch in percent, of the weights that rank its epochs; NaN if its loss is not finite.
    """
    rows = read_csv(path, dict.fromkeys(_TEXTS, str))
    return any(row['complete'] and (row['model'], row.get('model_kwargs', ''), row['seed']) == (
        model, arguments_of(model_kwargs), seed) and _same(row['last'], last) for row in rows)


def arguments_of(model_kwargs: Mapping[str, Any]) -> str:
    """Write arguments of a model as runs.csv does: ``KEY=VALUE ...``."""
    return ' '.join(f'{key}={value}' for key, value in model_kwargs.items())


def _same(a: float, b: float) -> bool:
    return abs(a - b) < 0.005 or math.isnan(a) and math.isnan(b)


def _arm(name: str, runs: Sequence[Mapping[str, Any]]) -> Arm:
    return Arm(name, runs[0]['model'], runs[0].get('model_kwargs', ''), len(runs), _mean([run['last'] for run in runs]),
               _mean([run['best'] for run in runs]))


def _mean(values: Sequence[float]) -> str:
    if not all(map(math.isfinite, values)):
        return 'diverged'  # NaN is what compare writes for a run whose loss is not finite in the end
    spread = f' ± {sample_deviation(values):.2f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.2f}{spread}'
