"""Kinds of flags that argparse lacks."""
import argparse
import os
from typing import Any, Optional, Sequence

from timm.utils import ParseKwargs


class Switch(argparse.BooleanOptionalAction):
    """``--NAME``, and ``--no-NAME`` to switch off what a recipe has switched on; off by default."""

    def __init__(self, option_strings: Sequence[str], dest: str, default: Any = False, help: Optional[str] = None,
                 **kwargs: Any) -> None:
        super().__init__(option_strings, dest, default=default, **kwargs)
        self.help = help  # as it was given: the base class appends the default


class ModelKwargs(ParseKwargs):
    """timm's ``NAME=VALUE ...``; what is none is an error of the command line."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Sequence[str],
                 option_string: Optional[str] = None) -> None:
        bad = next((value for value in values if '=' not in value), None)
        if bad is not None:
            parser.error(f'argument {option_string}: {bad!r} is no NAME=VALUE')
        super().__call__(parser, namespace, values, option_string)


def expanded(path: str) -> str:
    """A path with ``~`` replaced by the home directory: a shell leaves it in ``--output=~/run`` and in a recipe."""
    return os.path.expanduser(path)
