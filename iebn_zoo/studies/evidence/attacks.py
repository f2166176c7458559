"""The table and the picture of networks that were trained under the paper's noise attacks, norm beside norm.

Noise behind the normalization, ``--norm-noise``, has two readings. A network that was trained with it is another one
without it, so evaluation under the same noise shows what training under noise costs, and clean evaluation shows a
mismatch as well. Training logs both. Images of another data set, ``--mix-dataset``, take part in the statistics of
training batches alone, so that those runs have the clean reading only.

The batch noise is what ``--batch-noise`` measures, of the weights that are trained: in batches without images of
another data set, and under the noise behind the normalization.
"""
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from iebn_zoo.studies.compare import report
from iebn_zoo.studies.compare.notes import NORM_NAMES
from iebn_zoo.studies.compare.table import rows_as_markdown, values_and_spread, values_contrast, values_difference
from iebn_zoo.studies.evidence.experiments import Experiment, LoggedRun
from iebn_zoo.studies.noise.runs import attack_words
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.ranking import EMA, ranked_value, ranked_weights

PICTURE = 'attacks.png'
CLEAN, ATTACKED = 'clean', 'under the same noise'
NO_ATTACK = 'no attack'


@dataclass(frozen=True)
class AttackLine:
    """The complete runs under one attack, in one reading.

    Attributes:
        attack: In words.
        evaluation: ``CLEAN`` or ``ATTACKED``.
        top1: Of the last epoch in percent, one value per seed, by norm; NaN of a run that has diverged.
        noise: Batch noise of the last epoch, the same; empty where it was not measured, and in the second reading of an
            attack, which has the noise of the first.
    """

    attack: str
    evaluation: str
    top1: Dict[str, List[float]]
    noise: Dict[str, List[float]]


def has_attacks(experiment: Experiment) -> bool:
    """Tell whether a run was trained under an attack by its args.yaml, and all arms can be compared norm by norm."""
    if not any(run.args and attack_words(run.args) for run in experiment.runs):
        return False
    try:
        _sides(experiment)
    except UsageError:
        return False
    return True


def read_attacks(experiment: Experiment) -> List[AttackLine]:
    """Read one line per attack and reading, in the order of the arms.

    Raises:
        UsageError: An arm stands for no norm, its attack is not known, two arms stand for one norm and attack, two
            norms under one attack differ in their network or recipe, or no run is complete.
    """
    lines = []
    for attack, arms in _sides(experiment).items():
        experiment.check_recipe(list(arms.values()))
        runs = {norm: [run for run in _runs(experiment, arm) if run.row()['complete']] for norm, arm in arms.items()}
        lines += _readings(attack, {norm: own for norm, own in runs.items() if own})
    if not lines:
        raise UsageError(f'{experiment.directory} holds no complete run.\nTrain them, or wait for them.')
    return lines


def attacks_table(experiment: Experiment) -> str:
    """Write one line per attack and reading: n, top-1 and batch noise of each norm with the sample standard deviation
    over the seeds, and the differences of IEBN to BatchNorm with Welch's 95 % interval, in bold where that excludes 0.
    A column has what an attack changes about the difference in top-1, where the network is evaluated as it was trained.

    Raises:
        UsageError: See ``read_attacks``.
    """
    def cell(measure: str, norm: str, digits: int) -> Callable[[AttackLine], str]:
        return lambda line: values_and_spread(getattr(line, measure).get(norm, []), digits)

    def difference(measure: str, digits: int) -> Callable[[AttackLine], str]:
        return lambda line: values_difference(
            getattr(line, measure).get('iebn', []), getattr(line, measure).get('bn', []), digits)

    def change(line: AttackLine) -> str:
        trained = [other for other in lines if other.attack == line.attack][-1]  # ATTACKED, where there is one
        if calm is None or line.attack == NO_ATTACK or line is not trained:
            return ''
        return values_contrast([(sign * weight, side.top1.get(norm, [])) for sign, side in ((1, line), (-1, calm))
                                for weight, norm in ((1, 'iebn'), (-1, 'bn'))], 2)

    lines = read_attacks(experiment)
    calm = next((line for line in lines if line.attack == NO_ATTACK), None)
    norms = [norm for norm in NORM_NAMES if any(norm in line.top1 for line in lines)]
    columns: List[Tuple[str, Callable[[AttackLine], str]]] = [
        ('attack in training', lambda line: line.attack), ('evaluation', lambda line: line.evaluation),
        ('n', lambda line: _counts(line, norms)), *[(NORM_NAMES[norm], cell('top1', norm, 2)) for norm in norms],
        ('IEBN − BatchNorm (95 % interval)', difference('top1', 2))]
    if any(map(change, lines)):
        columns.append(('change by the attack (95 % interval)', change))
    if any(line.noise for line in lines):
        columns += [*[(f'batch noise, {NORM_NAMES[norm]}', cell('noise', norm, 4)) for norm in norms],
                    ('difference (95 % interval)', difference('noise', 4))]
    return rows_as_markdown(lines, columns)


def draw_attacks(experiment: Experiment, path: Path) -> Optional[bool]:
    """Draw top-1 and batch noise at the end, a point per seed; False if no run is complete, and nothing was drawn.

    Raises:
        UsageError: See ``read_attacks``.
        IEBNZooError: The picture cannot be written.
    """
    if not any(run.row()['complete'] for run in experiment.runs):
        return False
    from iebn_zoo.plots.noise import plot_attacks  # matplotlib takes its time to import
    lines = read_attacks(experiment)
    top1 = {f'{line.attack}\n{line.evaluation}': _named(line.top1) for line in lines}
    noise = {line.attack: _named(line.noise) for line in lines if line.noise}
    done = [run for run in experiment.runs if run.row()['complete']]
    seeds = [len(values) for line in lines for values in line.top1.values()]
    models, epochs = [run.cell.arm.model for run in done], done[0].epochs or len(done[0].cell.rows())
    plot_attacks(top1, noise, path, report.title(models, epochs, done[0].args, experiment.notes, seeds))
    return None


def _sides(experiment: Experiment) -> Dict[str, Dict[str, str]]:
    # the arm of each norm, by attack
    found: Dict[str, Dict[str, str]] = {}
    networks: Dict[str, str] = {}
    for arm in experiment.arms():
        norm, network = _norm_and_network(experiment, arm)
        attack = _attack(experiment, arm)
        twin = found.setdefault(attack, {}).setdefault(norm, arm)
        if twin != arm:
            raise UsageError(f'{experiment.directory}: {twin} and {arm} are both {NORM_NAMES[norm]}, {attack}.\n'
                             f'Put one of them into another folder.')
        if networks.setdefault(attack, network) != network:
            raise UsageError(f'{experiment.directory}: the arms under "{attack}" are of {networks[attack]} and of '
                             f'{network}.\nPut them into two folders.')
    return found


def _norm_and_network(experiment: Experiment, arm: str) -> Tuple[str, str]:
    model = next(iter(_runs(experiment, arm))).cell.arm.model
    prefix, _, rest = model.partition('_')
    named = prefix in NORM_NAMES and bool(rest)
    norm = experiment.notes.norm(arm) or (prefix if named else None)
    if norm is None:
        raise UsageError(f'{experiment.directory / arm} stands for no norm.\n'
                         f'Write norm: {", ".join(NORM_NAMES)} into its notes in experiment.yaml.')
    return norm, rest if named else model


def _attack(experiment: Experiment, arm: str) -> str:
    noted = experiment.notes.arms[arm].attack if arm in experiment.notes.arms else None
    runs = _runs(experiment, arm)
    unknown = next((run for run in runs if not run.args), None)
    if unknown is not None and noted is None:
        raise UsageError(f'{unknown.cell.run} does not say its attack.\n'
                         f'Expected an args.yaml, or attack: in the notes of {arm} in experiment.yaml.')
    words = list(dict.fromkeys(attack_words(run.args) or NO_ATTACK for run in runs if run.args))
    if len(words) > 1:
        raise UsageError(f'{experiment.directory / arm} holds runs under {" and under ".join(words)}.\n'
                         f'Put them into two folders.')
    return noted or words[0]


def _runs(experiment: Experiment, arm: str) -> List[LoggedRun]:
    return [run for run in experiment.runs if run.cell.arm.name == arm]


def _readings(attack: str, runs: Dict[str, List[LoggedRun]]) -> List[AttackLine]:
    noise = {norm: [run.cell.rows()[-1].get('batch_noise', math.nan) for run in own] for norm, own in runs.items()}
    noise = {norm: values for norm, values in noise.items() if all(map(math.isfinite, values))}
    lines: List[AttackLine] = []
    for evaluation in (CLEAN, ATTACKED):
        values = {norm: [_reading(run, evaluation) for run in own] for norm, own in runs.items()}
        # all or none: a mean over some of the seeds would pass for one over all
        top1 = {norm: [value for value in own if value is not None] for norm, own in values.items() if None not in own}
        if top1:
            lines.append(AttackLine(attack, evaluation, top1, {} if lines else noise))
    return lines


def _reading(run: LoggedRun, evaluation: str) -> Optional[float]:
    row, args = run.cell.rows()[-1], run.args or {}
    own = ATTACKED if args.get('norm_noise') and args.get('norm_noise_eval') else CLEAN
    if evaluation == own:
        return ranked_value(row, 'top1')
    ema = 'ema_' if ranked_weights(row) == EMA else ''
    value = row.get(f"eval_{ema}{'attacked' if evaluation == ATTACKED else 'clean'}_top1")
    return math.nan if value is not None and run.cell.diverged() else value


def _counts(line: AttackLine, norms: Sequence[str]) -> str:
    counts = [str(len(line.top1.get(norm, []))) for norm in norms]
    return ' / '.join(counts[:1] if len(set(counts)) == 1 else counts)


def _named(values: Dict[str, List[float]]) -> Dict[str, Sequence[float]]:
    return {NORM_NAMES[norm]: values[norm] for norm in NORM_NAMES if norm in values}
