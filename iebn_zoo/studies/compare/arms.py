"""The arms of a grid: which networks are compared, and under which names."""
import difflib
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence

import timm

import iebn_zoo  # noqa: F401  registers the models
from iebn_zoo.util.command_line.flags import key_values
from iebn_zoo.util.errors import UsageError

NORMS = ('iebn', 'bn', 'se')
GATE_ARGS = ('start', 'freeze_gate_weight', 'gate_downsample', 'fuse_act')  # of iebn_* models
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._+-]*')  # it becomes a directory
_FILES = ('.csv', '.md', '.png', '.yaml')  # of the tables, notes and pictures that lie beside the arms


_ABSENT = object()


@dataclass(frozen=True)
class Arm:
    """One side of a comparison, trained with every seed.

    Attributes:
        name: Of its directory and its row; that of the model unless ``--arm`` gives another.
        model: Registered name.
        kwargs: Arguments of the model, over those that all arms share.
    """

    name: str
    model: str
    kwargs: Dict[str, Any] = field(default_factory=dict, hash=False)

    def model_kwargs(self, shared: Dict[str, Any]) -> Dict[str, Any]:
        """Merge the model's own arguments over the ``shared`` ones. A network without gates gets no argument about
        gates, so that one recipe fits every norm."""
        if not self.model.startswith('iebn_'):
            shared = {key: value for key, value in shared.items() if key not in GATE_ARGS}
        return {**shared, **self.kwargs}

    def flags(self, shared: Dict[str, Any]) -> List[str]:
        """Return the flags of ``train``; see ``model_kwargs``. They replace the recipe's arguments of the model."""
        pairs = [f'{key}={value}' for key, value in self.model_kwargs(shared).items()]
        return ['--model', self.model, *(['--model-kwargs', *pairs] if pairs or shared else [])]


def make_arms(
        model: Optional[str],
        norms: Optional[Sequence[str]],
        models: Optional[Sequence[str]],
        arms: Optional[Sequence[Sequence[str]]],
) -> List[Arm]:
    """Make the arms that the flags ask for.

    Args:
        model: ``--model``, which needs ``norms``.
        norms: ``--norms``.
        models: ``--models``.
        arms: One list for each ``--arm``: its name, its model, and ``KEY=VALUE`` arguments of the model.

    Raises:
        UsageError: None or more than one of the three ways is used, or a name or argument is wrong.
    """
    ways = [bool(model and norms), bool(models), bool(arms)]
    if sum(ways) != 1 or (bool(model) != bool(norms)):
        raise UsageError('which models?\nExpected one of: --model NAME with --norms, such as --model resnet20_cifar '
                         '--norms bn iebn; --models NAME NAME ...; --arm NAME MODEL [KEY=VALUE ...], once per arm.')
    if arms:
        made = [_arm(words) for words in arms]
        names = [arm.name for arm in made]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f'two arms are called {twice}.\nGive each --arm a name of its own.')
    else:
        names = models or [_with_norm(model, norm) for norm in norms or ()] if model else models or ()
        made = [Arm(name, name) for name in names]
    for arm in made:
        _check_model(arm.model)
    return made


def default_baseline(arms: Sequence[Arm]) -> Optional[str]:
    """Name the arm that differences are taken to: the first called ``bn``, or the first of a ``bn_*`` model, or the
    network of an ``iebn_`` model without that prefix; None if there is no such arm. The second has no argument of its
    own: none that other arms lack."""
    common = [(key, value) for key, value in arms[0].kwargs.items()
              if all(arm.kwargs.get(key, _ABSENT) == value for arm in arms)] if arms else []
    named = [arm.name for arm in arms if arm.name == 'bn']
    plain = [arm.name for arm in arms if arm.model.startswith('bn_') and len(arm.kwargs) == len(common)]
    models = {arm.model for arm in arms}
    base = [arm.name for arm in arms if f'iebn_{arm.model}' in models]
    return next(iter([*named, *plain, *base]), None)


def _arm(words: Sequence[str]) -> Arm:
    if len(words) < 2 or '=' in words[1]:
        raise UsageError(f"--arm {' '.join(words)}: no model.\nExpected --arm NAME MODEL [KEY=VALUE ...].")
    name, model, *pairs = words
    if not _NAME.fullmatch(name):
        raise UsageError(f'--arm is called {name!r}, which is to become a directory.\n'
                         f'Expected letters, digits and . _ + - in its name.')
    if name.lower().endswith(_FILES):
        raise UsageError(f'--arm is called {name!r}, like a file of the grid.\n'
                         f'Expected a name that does not end in {", ".join(_FILES)}.')
    bad = next((pair for pair in pairs if '=' not in pair), None)
    if bad is not None:
        raise UsageError(f'--arm {name}: {bad!r} is no KEY=VALUE.\nExpected arguments of the model, such as start=bn.')
    return Arm(name, model, key_values(pairs))


def _check_model(name: str) -> None:
    if not timm.is_model(name.split('.')[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else 'Expected a registered name of timm or ours.'
        raise UsageError(f'unknown model {name!r}.\n{hint}')


def without_norm(model: str) -> str:
    """Return the name of a network without the norm in front: ``resnet20_cifar`` of ``iebn_resnet20_cifar``."""
    return next((model[len(n) + 1:] for n in NORMS if model.startswith(f'{n}_')), model)


def _with_norm(model: str, norm: str) -> str:
    if norm not in NORMS:
        raise UsageError(f'--norms has {norm!r}, expected {", ".join(NORMS)}.')
    base = without_norm(model)
    if norm == 'iebn' or timm.is_model(f'{norm}_{base}'):
        return f'{norm}_{base}'
    return base if norm == 'bn' else f'se{base}'  # timm's names: resnet50 and seresnet50
