"""Tables of experiments in Markdown, for the documents."""
import statistics
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from iebn_zoo.studies.compare.notes import NORM_NAMES
from iebn_zoo.studies.compare.report import data_words, network_words
from iebn_zoo.studies.compare.results import Row
from iebn_zoo.studies.compare.table import count, difference, mean_and_std, rows_as_markdown
from iebn_zoo.studies.evidence.experiments import Experiment
from iebn_zoo.util.errors import UsageError

Columns = List[Tuple[str, Callable[[Any], str]]]
_MEASURE = 'last'


def norms_table(experiments: Sequence[Experiment]) -> str:
    """Write one line per experiment: network, data, epochs, n, top-1 of each norm, IEBN's difference to BatchNorm with
    Welch's 95 % interval, and the hours of training of all runs in the line.

    Top-1 is in percent, of the last epoch: mean and sample standard deviation over the complete runs.

    Args:
        experiments: Each has at most one arm for each norm, by the arm's name or by ``norm`` in its notes.

    Raises:
        UsageError: An experiment has two arms of one norm, or none at all.
    """
    lines = [_by_norm(experiment) for experiment in experiments]
    shown = [norm for norm in NORM_NAMES if any(norm in arms for _, arms in lines)]
    columns: Columns = [
        ('network', lambda line: _network(line[0])), ('data', lambda line: _data(line[0])),
        ('epochs', lambda line: _joined(row['epochs'] for row in line[1].values() if row['n'])),
        ('n', lambda line: _joined(map(count, line[1].values()))),
        *[(NORM_NAMES[norm], lambda line, norm=norm: _top1(line[1].get(norm))) for norm in shown],
        ('IEBN − BatchNorm (95 % interval)', lambda line: _difference(line[1])),
        ('hours', lambda line: _hours(list(line[1].values())))]
    return rows_as_markdown(lines, columns)


def arms_table(experiment: Experiment) -> str:
    """Write one line per arm: n, top-1 of the last epoch, and its difference to the baseline with Welch's 95 %
    interval, in bold where that excludes 0.

    Raises:
        UsageError: No run of an arm is complete.
    """
    rows = experiment.arm_rows()
    empty = next((arm for arm, row in rows.items() if not row['n']), None)
    if empty is not None:
        raise UsageError(f'{experiment.directory / empty} holds no complete run.\nTrain it, or wait for it.')
    baseline = next((row['baseline'] for row in rows.values() if row['baseline']), None)
    columns: Columns = [
        ('network', lambda row: experiment.notes.label(row['arm'])), ('n', count),
        ('top-1 (%)', _top1)]
    if baseline is not None:
        words = experiment.notes.label(baseline)
        columns.append((f'difference to {words} (95 % interval)', lambda row: difference(_MEASURE, row)))
    return rows_as_markdown(list(rows.values()), columns)


def flag_table(experiments: Sequence[Experiment], flag: str) -> str:
    """Write one line per label of an arm, and one column per value of a flag: top-1 of the last epoch.

    Args:
        experiments: Whose arms have one label where they are one network.
        flag: Name of a flag of ``train`` as in args.yaml, such as ``lr``.

    Raises:
        UsageError: A run has no args.yaml, does not know the flag, or two arms claim one place.
    """
    cells: Dict[Tuple[str, Any], Row] = {}
    for experiment in experiments:
        for arm, row in experiment.arm_rows().items():
            value = _flag(experiment, arm, flag)
            place = (experiment.notes.label(arm), value)
            if place in cells:
                raise UsageError(f'{experiment.directory / arm}: {flag} {value} of {place[0]} has been taken.\n'
                                 f'Give the arm another label in experiment.yaml.')
            cells[place] = row
    counts = [row['n'] for row in cells.values() if row['n']]
    if not counts:
        raise UsageError(f'no complete run for the table of {flag}.\nName experiments whose runs have ended.')
    usual = statistics.mode(counts)
    labels, values = (list(dict.fromkeys(place[i] for place in cells)) for i in (0, 1))

    def text(label: str, value: Any) -> str:
        row = cells.get((label, value))
        note = f" (n = {row['n']})" if row is not None and row['n'] not in (0, usual) else ''
        return f'{_top1(row)}{note}'

    columns: Columns = [(f'network (n = {usual})', str), *[
        (f'{flag} {value}', lambda label, value=value: text(label, value)) for value in values]]
    return rows_as_markdown(labels, columns)


def _by_norm(experiment: Experiment) -> Tuple[Experiment, Mapping[str, Row]]:
    arms: Dict[str, str] = {}
    for arm in experiment.arms():
        norm = experiment.notes.norm(arm)
        if norm is not None and norm in arms:
            raise UsageError(f'{experiment.directory}: {arms[norm]} and {arm} are both {NORM_NAMES[norm]}.\n'
                             f'Leave norm: {norm} to one of them in experiment.yaml, or move one to another folder.')
        if norm is not None:
            arms[norm] = arm
    if not arms:
        raise UsageError(f'{experiment.directory} has no arm of {", ".join(NORM_NAMES)}.\n'
                         f'Expected folders with these names, or norm: in experiment.yaml.')
    experiment.check_recipe(list(arms.values()))
    rows = experiment.arm_rows(arms.get('bn'))
    return experiment, {norm: rows[arms[norm]] for norm in NORM_NAMES if norm in arms}


def _flag(experiment: Experiment, arm: str, flag: str) -> Any:
    runs = [run for run in experiment.runs if run.cell.arm.name == arm]
    unknown = next((run for run in runs if run.args is None or flag not in run.args), None)
    if unknown is not None:
        raise UsageError(f'{unknown.cell.run} does not say its {flag}.\nExpected a flag of its args.yaml.')
    values = list(dict.fromkeys(str(run.args[flag]) for run in runs if run.args))
    if len(values) > 1:
        raise UsageError(f'{experiment.directory / arm}: {flag} is {" and ".join(values)}.\n'
                         f'Expected one value for all seeds of an arm.')
    return values[0]


def _network(experiment: Experiment) -> str:
    return network_words([run.cell.arm.model for run in experiment.runs], experiment.notes)


def _data(experiment: Experiment) -> str:
    return data_words(next((run.args for run in experiment.runs if run.args), None), experiment.notes)


def _joined(values: Any) -> str:
    # one number where all agree, else one per column of norms, in their order
    texts = [str(value) for value in values]
    return ' / '.join(texts[:1] if len(set(texts)) == 1 else texts)


def _top1(row: Optional[Row]) -> str:
    return '' if row is None else mean_and_std(_MEASURE, row)


def _difference(arms: Mapping[str, Row]) -> str:
    return difference(_MEASURE, arms['iebn']) if {'bn', 'iebn'} <= arms.keys() else ''


def _hours(rows: Sequence[Row]) -> str:
    hours = [row['hours'] for row in rows if row['n']]
    return '' if not hours or None in hours else f'{sum(hours):.1f}'
