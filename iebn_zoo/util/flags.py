"""Kinds of flags that argparse lacks."""
import argparse
import os
from typing import Any, Dict, Optional, Sequence

from timm.utils.misc import ParseKwargs


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
            parser.error(f'{option_string} {bad}: expected KEY=VALUE, such as drop_rate=0.1')
        super().__call__(parser, namespace, values, option_string)


def expanded(path: str) -> str:
    """A path with ``~`` replaced by the home directory: a shell leaves it in ``--output=~/run`` and in a recipe."""
    return os.path.expanduser(path)


def key_values(pairs: Sequence[str]) -> Dict[str, Any]:
    """Read ``KEY=VALUE`` words as timm's ``--model-kwargs`` reads them."""
    read = argparse.Namespace()
    ParseKwargs([], 'values')(argparse.ArgumentParser(), read, pairs)
    return read.values
