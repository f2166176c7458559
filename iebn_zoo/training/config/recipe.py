"""Recipes: YAML files that replace the defaults of flags."""
import argparse
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Union

import yaml
from timm.utils.misc import ParseKwargs

from iebn_zoo.training.config.arguments import known_actions
from iebn_zoo.training.config.input_size import give_way
from iebn_zoo.training.config.yaml_words import Word, WordLoader, plain_values, read_error
from iebn_zoo.util.command_line.parser import did_you_mean
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.resources import recipe_names, resource

# what args.yaml of a run says of the one call that wrote it: read again, it would name the directory of that run
_OF_ONE_CALL = frozenset(('config', 'output', 'overwrite', 'resume', 'allow_recipe_change'))
# args.yaml of a run, also a published one, has all of these; a recipe has no config, as it cannot name another recipe
_OF_A_RECORD = frozenset(('config', 'model', 'epochs', 'lr', 'opt', 'seed', 'sched'))


def parse_with_recipe(parser: argparse.ArgumentParser, argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse ``argv``; the values of ``--config FILE`` replace the defaults, and flags override them.

    args.yaml of a run is a recipe too, without the flags that say where and how that run was started.

    Raises:
        UsageError: The recipe is missing or no YAML mapping, or it has an unknown flag, a flag twice, or a value of a
            wrong kind. null is a value of those flags alone that have no default.
    """
    first, _ = parser.parse_known_args(argv)
    if first.config:
        recipe = _read_recipe(parser, first.config)
        give_way(recipe, first)
        parser.set_defaults(**recipe)
    return parser.parse_args(argv)


def parse_with_settings(
        parser: argparse.ArgumentParser, settings: Mapping[str, Any], source: Union[str, Path]) -> argparse.Namespace:
    """Return what ``parser`` gives for no arguments, with ``settings`` in place of the defaults.

    Args:
        parser: The parser of the flags.
        settings: Values of flags by name, such as those of args.yaml.
        source: Where they come from, for messages.

    Raises:
        UsageError: A flag is unknown, or a value is of a wrong kind.
    """
    parser.set_defaults(**_checked_settings(parser, settings, Path(source)))
    return parser.parse_args([])


def _find(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    if path.name == name:  # a bare name is one of the shipped recipes
        try:
            return resource('recipes', name if path.suffix else f'{name}.yaml')
        except IEBNZooError:
            pass
    near = did_you_mean(path.stem, recipe_names())
    raise UsageError(f'no recipe at {name}.{" " + near if near else ""}\n'
                     f'Expected a YAML file, or a shipped recipe: {", ".join(recipe_names())}.')


def _read_recipe(parser: argparse.ArgumentParser, name: str) -> Dict[str, Any]:
    path = _find(name)
    try:
        recipe = yaml.load(path.read_text(encoding='utf-8'), Loader=WordLoader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as e:
        raise UsageError(f'{path} cannot be read as YAML: {read_error(e)}.\nCorrect the recipe.') from e
    if not isinstance(recipe, dict):
        what = 'nothing' if recipe is None else f'a {"list" if isinstance(recipe, list) else "text"}'
        raise UsageError(f'{path} holds {what}, expected a mapping such as "lr: 0.1".')
    if _OF_A_RECORD <= recipe.keys():
        recipe = {key: value for key, value in recipe.items() if key not in _OF_ONE_CALL}
    return _checked_settings(parser, recipe, path)


def _checked_settings(parser: argparse.ArgumentParser, settings: Mapping[str, Any], path: Path) -> Dict[str, Any]:
    actions: Dict[str, argparse.Action] = {}
    for action in known_actions(parser):
        if action.nargs != 0:  # a flag may be called otherwise than its value, as --opt-kwargs is
            actions.update({option[2:].replace('-', '_'): action for option in action.option_strings
                            if option.startswith('--')})
    actions.update({action.dest: action for action in known_actions(parser)})
    out: Dict[str, Any] = {}
    names: Dict[str, str] = {}
    for key, value in settings.items():
        action = actions.get(str(key).replace('-', '_'))
        if action is None:
            near = did_you_mean(str(key).replace('-', '_'), actions)
            raise UsageError(f'{path}: unknown key {str(key)!r}.{" " + near if near else ""}\n'
                             f'Expected the name of a flag; see --help.')
        if action.dest in out:
            raise UsageError(f'{path}: {names[action.dest]} and {key} are the same flag.\nGive one of them.')
        out[action.dest], names[action.dest] = _checked(path, key, value, action), str(key)
    return out


def _checked(path: Path, key: str, value: Any, action: argparse.Action) -> Any:
    given = f'{path}: {key} is {"null" if value is None else repr(value)}'
    if value is None:
        if action.default is None:
            return None
        raise UsageError(f'{given}, expected {_expected(action)}.\nGive a value, or remove the line: without it '
                         f'{key} is {_as_yaml(action.default)}.')
    if action.nargs == 0:  # a switch
        read = value.boolean() if isinstance(value, Word) else value
        if not isinstance(read, bool):
            raise UsageError(f'{given}, expected {_expected(action)}.')
        return read
    if isinstance(action, ParseKwargs):
        if not isinstance(value, dict):
            raise UsageError(f'{given}, expected {_expected(action)}.')
        return plain_values(value)
    many = action.nargs == '+' or isinstance(action.nargs, int)
    values = value if isinstance(value, list) else [value]
    if values == action.default == []:
        return []
    if many != isinstance(value, list) or not values or (isinstance(action.nargs, int) and len(values) != action.nargs):
        raise UsageError(f'{given}, expected {_expected(action)}.')
    try:
        return [_read(v, action) for v in values] if many else _read(value, action)
    except ValueError as e:
        text = any(isinstance(v, Word) for v in values) and action.type not in (int, float) and not action.choices
        hint = '\nPut it into quotes if this word is meant.' if text else ''
        raise UsageError(f'{given}, expected {_expected(action)}.{hint}') from e


def _read(value: Any, action: argparse.Action) -> Any:
    truth = isinstance(value, bool) or (isinstance(value, Word) and value.boolean() is not None)
    if truth or value is None or isinstance(value, (list, dict)) or (action.type is int and isinstance(value, float)):
        raise ValueError
    read: Callable[[str], Any] = action.type if callable(action.type) else str
    made = read(str(value))  # as from the command line, which gives texts
    if action.choices and made not in action.choices:
        raise ValueError
    return made


def _expected(action: argparse.Action) -> str:
    if action.nargs == 0:
        return 'true or false'
    if isinstance(action, ParseKwargs):
        return 'a mapping such as {name: value}'
    if action.choices:
        one = f'one of {", ".join(repr(choice) if choice == "" else str(choice) for choice in action.choices)}'
    else:
        one = {int: 'a whole number', float: 'a number'}.get(action.type, 'a text')  # type: ignore[arg-type]
    if isinstance(action.nargs, int):
        return f'a list of {action.nargs} values, each {one}'
    if action.nargs == '+':
        return f'a list of values, each {one}'
    return f'{one}, such as {action.const}' if action.const is not None else one


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]
