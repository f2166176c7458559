"""Recipes: YAML files that replace the defaults of flags."""
import argparse
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Union

import yaml
from timm.utils.misc import ParseKwargs

from iebn_zoo.training.config.arguments import known_actions
from iebn_zoo.training.config.input_size import give_way
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.parser import did_you_mean
from iebn_zoo.util.resources import recipe_names, resource


def parse_with_recipe(parser: argparse.ArgumentParser, argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse ``argv``; the values of ``--config FILE`` replace the defaults, and flags override them.

    Raises:
        UsageError: The recipe is missing or no YAML mapping, or it has an unknown flag or a value of a wrong kind.
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
        recipe = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as e:
        raise UsageError(f'{path} is no readable YAML: {str(e).splitlines()[0]}.\nCorrect the recipe.') from e
    if not isinstance(recipe, dict):
        raise UsageError(f'{path} holds a {type(recipe).__name__}, expected a mapping such as "lr: 0.1".')
    return _checked_settings(parser, recipe, path)


def _checked_settings(parser: argparse.ArgumentParser, settings: Mapping[str, Any], path: Path) -> Dict[str, Any]:
    actions = {a.dest: a for a in known_actions(parser)}
    out = {}
    for key, value in settings.items():
        action = actions.get(str(key).replace('-', '_'))
        if action is None:
            raise UsageError(f'{path}: unknown key {key!r}.\nExpected the name of a flag; see --help.')
        out[action.dest] = _checked(path, key, value, action)
    return out


def _checked(path: Path, key: str, value: Any, action: argparse.Action) -> Any:
    if value is None:
        return None
    if action.nargs == 0:  # a switch
        if not isinstance(value, bool):
            raise UsageError(f'{path}: {key} is {value!r}, expected true or false.')
        return value
    if isinstance(action, ParseKwargs):
        if not isinstance(value, dict):
            raise UsageError(f'{path}: {key} is {value!r}, expected a mapping.')
        return value
    many = action.nargs == '+' or isinstance(action.nargs, int)
    values = value if isinstance(value, list) else [value]
    if many != isinstance(value, list) or (isinstance(action.nargs, int) and len(values) != action.nargs):
        raise UsageError(f'{path}: {key} is {value!r}, expected {"a list" if many else "one value"}.')
    read: Callable[[str], Any] = action.type if callable(action.type) else str
    try:
        if any(isinstance(v, bool) or (action.type is int and isinstance(v, float)) for v in values):
            raise ValueError
        # str first: YAML reads 1e-4 as a string, and the command line gives strings
        values = [read(str(v)) for v in values]
        if action.choices and any(v not in action.choices for v in values):
            raise ValueError
    except ValueError as e:
        kind = f'one of {", ".join(map(str, action.choices))}' if action.choices else getattr(read, '__name__', 'str')
        raise UsageError(f'{path}: {key} is {value!r}, expected {kind}.') from e
    return values if many else values[0]
