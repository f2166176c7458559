"""The command that repeats a training: the recipe, and the flags that differ from it.

It is made from the settings that the run recorded, not from the words that somebody typed: so it is whole where a
recipe of the user's own is not at hand, and it names no place on somebody's machine.
"""
import argparse
import ast
import shlex
from pathlib import PureWindowsPath
from typing import Any, Dict, List, Mapping, Optional

from iebn_zoo.layers.start import CIFAR_START, DEFAULT_START
from iebn_zoo.training.config.arguments import known_actions, train_parser
from iebn_zoo.training.config.optimizer import decay_epochs
from iebn_zoo.training.config.recipe import parse_with_recipe
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.places import DATASETS, dataset_name, local_name
from iebn_zoo.util.resources import recipe_names

# what says how a run was watched, stored, stopped or spread over processes, and changes no weight
OPERATION = frozenset((
    'config', 'data_dir', 'output', 'overwrite', 'resume', 'allow_recipe_change', 'stop_after', 'checkpoint_steps',
    'checkpoint_hist', 'log_interval', 'log_tensorboard', 'preview', 'workers', 'device', 'device_data',
    'dataset_download'))
_LOGGERS = ('log_', 'wandb_')
# flags that name a file or directory, and the word that stands for it
PLACES = {'initial_checkpoint': 'CHECKPOINT', 'mix_dataset': 'OTHER_DATA'}
_WIDTH = 80


def is_operation(name: str) -> bool:
    """Tell whether the setting ``name`` says how a run was operated, and not what was trained."""
    return name in OPERATION or name.startswith(_LOGGERS)


def training_command(args: Mapping[str, Any], num_processes: Any = 1, gate_start: Optional[str] = None) -> str:
    """Return the command line that trains with the settings ``args``, in lines of at most 80 characters.

    Args:
        args: args.yaml of a run. Settings that this version does not know are left out.
        num_processes: Number of processes of the run.
        gate_start: How new gates began; the command names it if this version has another default. None where there
            were no new gates.

    Returns:
        The command, or nothing where ``args`` names no model.
    """
    if not args.get('model'):
        return ''
    if gate_start is not None:
        args = {**args, 'model_kwargs': _with_start(str(args['model']), args.get('model_kwargs') or {}, gate_start)}
    many = isinstance(num_processes, int) and num_processes > 1
    start = f'torchrun --nproc-per-node {num_processes} -m iebn_zoo train' if many else 'iebn-zoo train'
    recipe = PureWindowsPath(str(args.get('config') or '')).stem  # of either kind of path
    flags = _differences(args, recipe) if recipe in recipe_names() else None
    if flags is None:  # no shipped recipe, or one that has since gained what no flag undoes
        flags = _differences(args, None) or []
    elif recipe:
        flags.insert(0, ['--config', recipe])
    download = ['--dataset-download'] if args.get('dataset_download') else []
    words = [*flags, *([download] if download else []), ['--data-dir', 'DATA'], ['--output', 'RUN']]
    return _wrapped(start, words)


def _with_start(model: str, kwargs: Mapping[str, Any], gate_start: str) -> Dict[str, Any]:
    default = CIFAR_START if model.split('.')[0].endswith('_cifar') else DEFAULT_START
    return {**({} if gate_start == default else {'start': gate_start}), **kwargs}


def _differences(args: Mapping[str, Any], recipe: Optional[str]) -> Optional[List[List[str]]]:
    parser = train_parser()
    try:
        begin = vars(parse_with_recipe(parser, ['--config', recipe] if recipe else []))
    except IEBNZooError:  # a recipe with a flag that this version does not have
        return None
    actions: Dict[str, List[argparse.Action]] = {}
    for action in known_actions(parser):
        actions.setdefault(action.dest, []).append(action)
    flags: List[List[str]] = []
    sched = str(args.get('sched'))
    for name, value in args.items():
        if is_operation(name) or name not in begin or value == begin[name] and type(value) is type(begin[name]):
            continue
        if name == 'decay_epochs' and decay_epochs(value, sched) == decay_epochs(begin[name], sched):
            continue  # an earlier version recorded the default
        words = _words(actions[name], name, value)
        if words is not None:
            flags.append(words)
        elif recipe:
            return None
    return flags


def _words(actions: List[argparse.Action], name: str, value: Any) -> Optional[List[str]]:
    """Return a flag with its value as the words of a command line; None for a value that no flag sets."""
    first = actions[0]
    if isinstance(value, bool) and first.nargs == 0:
        if isinstance(first, argparse.BooleanOptionalAction):
            return [next(o for o in first.option_strings if o.startswith('--no-') != value)]
        return next(([_long(action)] for action in actions if action.const is value), None)
    if value is None or value in ({}, []) or first.nargs == 0:
        return None
    if name in PLACES:
        return [_long(first), PLACES[name]]
    if isinstance(value, Mapping):
        return [_long(first), *(f'{key}={_literal(v)}' for key, v in value.items())]
    if isinstance(value, (list, tuple)):
        return [_long(first), *(_local(name, v) for v in value)]
    return [_long(first), _local(name, value)]


def _long(action: argparse.Action) -> str:
    return next(o for o in action.option_strings if o.startswith('--'))


def _local(name: str, value: Any) -> str:
    return dataset_name(str(value)) if name in DATASETS else local_name(str(value))


def _literal(value: Any) -> str:
    """Return a value as KEY=VALUE flags read it: as a Python literal, or else as a string."""
    if not isinstance(value, str):
        return repr(value)
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return local_name(value)
    return repr(value)


def _wrapped(start: str, flags: List[List[str]]) -> str:
    parts: List[str] = []
    for flag in flags:
        whole = shlex.join(flag)
        # a flag stays with its values, unless they fill a line (less its indentation and what ends it)
        parts += [whole] if len(whole) + 6 <= _WIDTH else map(shlex.quote, flag)
    lines = [start]
    for part in parts:
        if len(lines[-1]) + len(part) + 3 > _WIDTH:
            lines.append('    ' + part)
        else:
            lines[-1] += ' ' + part
    return ' \\\n'.join(lines)
