"""The table and the picture of networks that were trained under the paper's noise attacks, norm beside norm.

Noise behind the normalization has two readings. A network that was trained with it is another network without it, so
evaluation under the same noise shows what training under noise costs, and clean evaluation shows a mismatch as well.
Training logs both. Images of another data set take part in the statistics of training batches alone, so that those runs
have the clean reading only.
"""
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from iebn_zoo.studies.compare.notes import NORM_NAMES
from iebn_zoo.studies.compare.table import rows_as_markdown, values_and_spread, values_difference
from iebn_zoo.studies.evidence.experiments import Experiment, LoggedRun
from iebn_zoo.studies.noise.runs import attack_words
from iebn_zoo.training.run.ranking import ranked_value
from iebn_zoo.util.errors import UsageError

PICTURE = 'attacks.png'
CLEAN, ATTACKED = 'clean', 'under the same noise'
_SIDES = ('bn', 'iebn')


@dataclass(frozen=True)
class AttackLine:
    """The complete runs under one attack, in one reading.

    Attributes:
        attack: In words.
        evaluation: ``CLEAN`` or ``ATTACKED``.
        top1: Of the last epoch in percent, one value per seed, by norm.
        noise: Batch noise of the last epoch, the same; empty where it was not measured.
    """

    attack: str
    evaluation: str
    top1: Dict[str, List[float]]
    noise: Dict[str, List[float]]


def has_attacks(experiment: Experiment) -> bool:
    """Tell whether the args.yaml of a run names a noise attack."""
    return any(_is_attacked(run) for run in experiment.runs)


def read_attacks(experiment: Experiment) -> List[AttackLine]:
    """Read one line per attack and reading, in the order of the arms.

    Raises:
        UsageError: An arm stands for no norm, two arms for one norm and attack, two norms under one attack differ in
            their recipe, or no run under an attack is complete.
    """
    arms: Dict[str, Dict[str, str]] = {}
    for arm in experiment.arms():
        norm, attack = experiment.notes.norm(arm), _attack(experiment, arm)
        if norm is None:
            raise UsageError(f'{experiment.directory / arm} stands for no norm.\n'
                             f'Write norm: {", ".join(NORM_NAMES)} into its notes in experiment.yaml.')
        twin = arms.setdefault(attack, {}).setdefault(norm, arm)
        if twin != arm:
            raise UsageError(f'{experiment.directory}: {twin} and {arm} are both {NORM_NAMES[norm]}, {attack}.\n'
                             f'Put one of them into another folder.')
    lines = []
    for attack, sides in arms.items():
        experiment.check_recipe(list(sides.values()))
        lines += _readings(attack, {norm: _last_rows(experiment, arm) for norm, arm in sides.items()})
    if not lines:
        raise UsageError(f'{experiment.directory} holds no complete run.\nTrain them, or wait for them.')
    return lines


def attacks_table(experiment: Experiment) -> str:
    """Write one line per attack and reading: n, top-1 and batch noise of BatchNorm and of IEBN with the sample standard
    deviation over the seeds, and the differences with Welch's 95 % interval, in bold where that excludes 0.

    Raises:
        UsageError: See ``read_attacks``.
    """
    def cell(measure: str, norm: str, digits: int) -> Callable[[AttackLine], str]:
        return lambda line: values_and_spread(getattr(line, measure).get(norm, []), digits)

    def difference(measure: str, digits: int) -> Callable[[AttackLine], str]:
        return lambda line: values_difference(
            getattr(line, measure).get('iebn', []), getattr(line, measure).get('bn', []), digits)

    lines = read_attacks(experiment)
    columns: List[Tuple[str, Callable[[AttackLine], str]]] = [
        ('attack in training', lambda line: line.attack), ('evaluation', lambda line: line.evaluation), ('n', _counts),
        *[(NORM_NAMES[norm], cell('top1', norm, 2)) for norm in _SIDES],
        ('IEBN − BatchNorm (95 % interval)', difference('top1', 2))]
    if any(line.noise for line in lines):
        columns += [*[(f'batch noise, {NORM_NAMES[norm]}', cell('noise', norm, 4)) for norm in _SIDES],
                    ('difference (95 % interval)', difference('noise', 4))]
    return rows_as_markdown(lines, columns)


def draw_attacks(experiment: Experiment, path: Path) -> Optional[bool]:
    """Draw top-1 and batch noise at the end, a point per seed; False if no run is complete, and nothing was drawn.

    Raises:
        UsageError: See ``read_attacks``.
        IEBNZooError: The picture cannot be written.
    """
    if not any(_last_rows(experiment, arm) for arm in experiment.arms()):
        return False
    from iebn_zoo.plots.noise import plot_attacks  # matplotlib takes its time to import
    lines = read_attacks(experiment)
    top1 = {f'{line.attack}\n{line.evaluation}': _named(line.top1) for line in lines}
    noise = {line.attack: _named(line.noise) for line in lines if line.noise}
    plot_attacks(top1, noise, path)
    return None


def _is_attacked(run: LoggedRun) -> bool:
    return bool(run.args and attack_words(run.args))


def _attack(experiment: Experiment, arm: str) -> str:
    noted = experiment.notes.arms[arm].attack if arm in experiment.notes.arms else None
    run = next(run for run in experiment.runs if run.cell.arm.name == arm)
    return noted or attack_words(run.args or {}) or 'none'


def _last_rows(experiment: Experiment, arm: str) -> List[dict]:
    runs = [run for run in experiment.runs if run.cell.arm.name == arm]
    return [dict(run.cell.rows()[-1]) for run in runs if run.row()['complete']]


def _readings(attack: str, rows: Dict[str, List[dict]]) -> List[AttackLine]:
    # a run names the reading that is not its own, see --norm-noise-eval
    noise = {norm: [row['batch_noise'] for row in own] for norm, own in rows.items()
             if own and all('batch_noise' in row for row in own)}
    lines = []
    for evaluation, other in ((CLEAN, 'clean_top1'), (ATTACKED, 'attacked_top1')):
        top1: Dict[str, List[float]] = {}
        for norm, own in rows.items():
            values = [_reading(row, evaluation, other) for row in own]
            found = [value for value in values if value is not None]
            if found and len(found) == len(values):  # all or none: a mean over some seeds would pass for one over all
                top1[norm] = found
        if top1:
            lines.append(AttackLine(attack, evaluation, top1, noise))
    return lines


def _reading(row: dict, evaluation: str, other: str) -> Optional[float]:
    if f'eval_{other}' in row:
        return ranked_value(row, other)
    own = ATTACKED if 'eval_clean_top1' in row else CLEAN
    return ranked_value(row, 'top1') if evaluation == own else None


def _counts(line: AttackLine) -> str:
    counts = [str(len(line.top1.get(norm, []))) for norm in _SIDES]
    return ' / '.join(counts[:1] if len(set(counts)) == 1 else counts)


def _named(values: Dict[str, List[float]]) -> Dict[str, Sequence[float]]:
    return {NORM_NAMES[norm]: values[norm] for norm in NORM_NAMES if norm in values}
