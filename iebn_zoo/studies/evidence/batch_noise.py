"""The table and the picture of the batch noise over sizes of the batch, from batch_sizes.csv of an experiment."""
import math
import statistics
from pathlib import Path
from typing import Dict, List, Tuple

from iebn_zoo.studies.compare.table import rows_as_markdown, values_and_spread, values_difference
from iebn_zoo.studies.evidence.experiments import Experiment
from iebn_zoo.studies.noise.batch_sizes import FILE, read_rows
from iebn_zoo.util.errors import UsageError

PICTURE = 'batch_sizes.png'
Noise = Dict[Tuple[str, int], List[float]]


def has_batch_sizes(experiment: Experiment) -> bool:
    """Tell whether an experiment was measured in batches of several sizes."""
    return (experiment.directory / FILE).is_file()


def read_noise(experiment: Experiment) -> Noise:
    """Read the mean batch noise over the norms of each network, by arm and batch size, one value per seed.

    Raises:
        UsageError: The file is missing or damaged, or names an arm that the experiment does not have.
    """
    path, seen = experiment.directory / FILE, set()
    values: Dict[Tuple[str, int, int], List[float]] = {}
    for row in read_rows(path):
        place = row['arm'], row['batch_size'], row['seed'], row['layer']
        if place in seen:  # two networks of one seed, or without a seed, would count as one
            raise UsageError(f'{path} has {row["layer"]} of {row["arm"]}, seed {row["seed"]}, batch size '
                             f'{row["batch_size"]} twice.\nExpected one network for each arm and seed.')
        seen.add(place)
        if row['arm'] not in experiment.arms():
            raise UsageError(f'{path}: {row["arm"]} is no arm of this experiment.\n'
                             f'Expected {", ".join(experiment.arms())}.')
        if math.isfinite(row['batch_noise']):
            values.setdefault((row['arm'], row['batch_size'], row['seed']), []).append(row['batch_noise'])
    noise: Noise = {}
    for (arm, size, _), found in values.items():
        noise.setdefault((arm, size), []).append(statistics.fmean(found))
    if not noise:
        raise UsageError(f'{path} has no row with a batch noise.\nMeasure it again.')
    return noise


def sizes_table(experiment: Experiment) -> str:
    """Write one line per batch size: mean batch noise of each arm over its seeds with the sample standard deviation,
    and the difference of each to the first arm with Welch's 95 % interval, in bold where that excludes 0.

    Raises:
        UsageError: See ``read_noise``.
    """
    noise = read_noise(experiment)
    arms = [arm for arm in experiment.arms() if any(arm == key[0] for key in noise)]
    sizes = sorted({size for _, size in noise})
    label = experiment.notes.label
    columns = [('batch size', str)] + [
        (label(arm), lambda size, arm=arm: _mean(noise.get((arm, size), []))) for arm in arms] + [
        (f'{label(arm)} − {label(arms[0])} (95 % interval)',
         lambda size, arm=arm: values_difference(noise.get((arm, size), []), noise.get((arms[0], size), []), 4))
        for arm in arms[1:]]
    return rows_as_markdown(sizes, columns)


def draw_sizes(experiment: Experiment, path: Path) -> None:
    """Draw the mean batch noise over the batch size, a line per arm through the means and a point per seed.

    Raises:
        UsageError: See ``read_noise``.
        IEBNZooError: The picture cannot be written.
    """
    from iebn_zoo.plots.noise import plot_batch_sizes  # matplotlib takes its time to import
    noise = read_noise(experiment)
    lines = {experiment.notes.plain_label(arm): {size: values for (name, size), values in noise.items() if name == arm}
             for arm in experiment.arms()}
    plot_batch_sizes({label: line for label, line in lines.items() if line}, path)



def _mean(values: List[float]) -> str:
    return f'{values_and_spread(values, 4)} (n = {len(values)})' if values else ''
