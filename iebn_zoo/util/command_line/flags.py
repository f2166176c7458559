"""Kinds of flags that argparse lacks."""
import argparse
import os
from typing import Any, Dict, Optional, Sequence

from timm.utils.misc import ParseKwargs

from iebn_zoo.util.resources import recipe_names


class Switch(argparse.BooleanOptionalAction):
    """A flag ``--NAME`` that is off by default, with ``--no-NAME`` to undo a recipe that switches it on."""

    def __init__(self, option_strings: Sequence[str], dest: str, default: Any = False, help: Optional[str] = None,
                 **kwargs: Any) -> None:
        super().__init__(option_strings, dest, default=default, **kwargs)
        self.help = help  # without the default, which the base class appends


class ModelKwargs(ParseKwargs):
    """timm's ``KEY=VALUE ...``. A word without ``=`` is an error of the command line."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Sequence[str],
                 option_string: Optional[str] = None) -> None:
        bad = next((value for value in values if '=' not in value), None)
        if bad is not None:
            parser.error(f'{option_string} {bad}: expected KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)


def add_use_ema(parser: argparse._ActionsContainer, help: str, action: Any = 'store_true', **kwargs: Any) -> None:
    """Add ``--use-ema`` with the undocumented synonym ``--ema``; the attribute is ``use_ema``."""
    parser.add_argument('--use-ema', action=action, help=help, **kwargs)
    parser.add_argument('--ema', dest='use_ema', action=action, help=argparse.SUPPRESS, **kwargs)


def add_config(parser: argparse._ActionsContainer) -> None:
    """Add ``--config``, whose help lists the shipped recipes."""
    parser.add_argument(
        '-c', '--config', type=expanded, metavar='FILE',
        help=f'YAML recipe, which flags override; or the name of a shipped recipe: {", ".join(recipe_names())}')


def add_device(parser: argparse._ActionsContainer) -> None:
    """Add ``--device``."""
    parser.add_argument('--device', default='auto', metavar='DEVICE',
                        help='auto (a GPU where there is one), cpu, cuda, cuda:N, xpu, xpu:N or mps')


def add_formats(parser: argparse._ActionsContainer, names: Sequence[str]) -> None:
    """Add ``--formats``, one or more of ``names``."""
    parser.add_argument(
        '--formats', nargs='+', choices=list(names), default=[], metavar='FORMAT',
        help=f'write the network for other runtimes too, and run each file: {", ".join(names)}')


def expanded(path: str) -> str:
    """Replace ``~`` by the home directory in a path, as no shell does in ``--output=~/run`` or in a recipe."""
    return os.path.expanduser(path)


def key_values(pairs: Sequence[str]) -> Dict[str, Any]:
    """Read ``KEY=VALUE`` words as timm's ``--model-kwargs`` reads them."""
    read = argparse.Namespace()
    ParseKwargs([], 'values')(argparse.ArgumentParser(), read, pairs)
    return read.values
