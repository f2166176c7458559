"""experiment.yaml: what people know of an experiment beside its logs, and the words that tables and pictures use."""
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional

import yaml

from iebn_zoo.training.config.yaml_words import UniqueKeyLoader, read_error
from iebn_zoo.util.errors import UsageError

NOTES = 'experiment.yaml'
NORM_NAMES = {'bn': 'BatchNorm', 'se': 'SE', 'iebn': 'IEBN'}


@dataclass(frozen=True)
class ArmNotes:
    """What the notes say of one arm; everything is optional.

    Attributes:
        label: The arm's name in Markdown, for tables and pictures.
        network: Registered name of the network, for runs without args.yaml.
        model_kwargs: Its arguments, for runs without args.yaml.
        norm: ``bn``, ``se`` or ``iebn``: the column of the table of norms that the arm stands in.
        attack: The noise attack in words.
    """

    label: Optional[str] = None
    network: Optional[str] = None
    model_kwargs: Dict[str, Any] = field(default_factory=dict, hash=False)
    norm: Optional[str] = None
    attack: Optional[str] = None


@dataclass(frozen=True)
class Notes:
    """What the notes say of an experiment; everything is optional.

    Attributes:
        network: The network in words, without its norm.
        data: The data in words.
        epochs: Epochs of a complete run, for runs without args.yaml.
        machine: The machine in words, for runs without environment.json.
        torch: Version, for runs without environment.json.
        timm: Version, for runs without environment.json.
        baseline: Name of the arm that differences are taken to.
        arms: By the name of the arm's directory, in the order of tables and pictures.
    """

    network: Optional[str] = None
    data: Optional[str] = None
    epochs: Optional[int] = None
    machine: Optional[str] = None
    torch: Optional[str] = None
    timm: Optional[str] = None
    baseline: Optional[str] = None
    arms: Mapping[str, ArmNotes] = field(default_factory=dict, hash=False)

    def label(self, arm: str) -> str:
        """Return the label of an arm in Markdown: its directory's name where the notes give none."""
        found = self.arms.get(arm, ArmNotes()).label
        return found or NORM_NAMES.get(arm, f'`{arm}`').replace('|', '\\|')

    def plain_label(self, arm: str) -> str:
        """Return the label without Markdown, for pictures."""
        return self.label(arm).replace('`', '')

    def norm(self, arm: str) -> Optional[str]:
        """Return the norm whose column an arm stands in: its own note, or the directory's name if that is a norm."""
        found = self.arms.get(arm, ArmNotes()).norm
        return found or (arm if arm in NORM_NAMES else None)

    def place(self, arm: str) -> int:
        """Return the number of an arm in the order of the notes; arms that they do not name come last."""
        names = list(self.arms)
        return names.index(arm) if arm in names else len(names)


def read_notes(directory: Path) -> Notes:
    """Read experiment.yaml of an experiment's directory; empty notes if there is none.

    Raises:
        UsageError: The file is damaged, has an unknown key, or a value of another kind than expected.
    """
    path = directory / NOTES
    if not path.is_file():
        return Notes()
    try:
        values = yaml.load(path.read_text(encoding='utf-8'), Loader=UniqueKeyLoader)
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise UsageError(f'{path} cannot be read: {read_error(e)}.\nExpected a YAML mapping.') from e
    values = _checked(path, '', values, Notes)
    arms = values.pop('arms', {})
    notes = Notes(**values, arms={str(name): ArmNotes(**_checked(path, f'arms: {name}: ', arm, ArmNotes))
                                  for name, arm in arms.items()})
    for name, arm in notes.arms.items():
        if arm.norm is not None and arm.norm not in NORM_NAMES:
            raise UsageError(f'{path}: arms: {name}: norm is {arm.norm!r}, expected {", ".join(NORM_NAMES)}.')
    if notes.baseline is not None and notes.arms and notes.baseline not in notes.arms:
        raise UsageError(f'{path}: baseline is {notes.baseline!r}, expected one of its arms.')
    return notes


_KINDS: Dict[str, Callable[[Any], bool]] = {
    'epochs': lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
    'arms': lambda value: isinstance(value, dict),
    'model_kwargs': lambda value: isinstance(value, dict),
}
_EXPECTED = {'epochs': 'a number of epochs', 'arms': 'a mapping', 'model_kwargs': 'a mapping'}


def _checked(path: Path, place: str, values: Any, kind: type) -> Dict[str, Any]:
    if not isinstance(values, dict):
        raise UsageError(f'{path}: {place}{values!r}, expected a mapping.')
    known = [f.name for f in fields(kind)]
    for key, value in values.items():
        if key not in known:
            raise UsageError(f'{path}: {place}unknown key {key!r}.\nExpected {", ".join(known)}.')
        if not _KINDS.get(key, lambda v: isinstance(v, str) and '|' not in v and '\n' not in v)(value):
            raise UsageError(f'{path}: {place}{key} is {value!r}, expected '
                             f'{_EXPECTED.get(key, "a text in one line without |")}.\n'
                             f'Put a version or a number that is meant as text into quotes.')
    return dict(values)
