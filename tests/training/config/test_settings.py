"""The settings hold the flags of the parser: no other ones, in its order, with its values."""
import argparse
from dataclasses import fields
from typing import get_args, get_type_hints

from iebn_zoo.data.settings import settings_of
from iebn_zoo.training.config.arguments import train_parser, validate_parser
from iebn_zoo.training.config.settings import TrainSettings, ValidateSettings


def test_flags_are_those_of_the_parser_in_its_order():
    parsed = train_parser().parse_args(['--output', 'run', '--opt-kwargs', 'nesterov=False', '--preview'])
    settings = TrainSettings.from_flags(parsed)
    assert list(settings.flags().items()) == list(vars(parsed).items())
    assert settings.callbacks['preview'] is True and not hasattr(settings, 'preview')
    assert list(settings.flags().items()) == list(vars(parsed).items())  # it can be asked for again


def test_types_are_those_of_the_parser():
    hints = get_type_hints(TrainSettings)
    actions = {action.dest: action for action in train_parser()._actions}
    for field in fields(TrainSettings):
        if field.name == 'callbacks':
            continue
        action, kinds = actions[field.name], get_args(hints[field.name]) or (hints[field.name],)
        required = field.name in ('model', 'output')  # the command checks them
        assert (action.default is None and not required) == (type(None) in kinds), field.name
        if isinstance(action, argparse.BooleanOptionalAction) or action.nargs == 0:
            assert bool in kinds, field.name
        elif action.type in (int, float) and action.nargs is None:
            assert action.type in kinds, field.name


def test_validate_has_settings_of_its_own():
    parsed = validate_parser().parse_args(['--model', 'x', '--amp'])
    assert vars(settings_of(ValidateSettings, parsed)).items() <= vars(parsed).items()
