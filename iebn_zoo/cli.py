"""The command ``iebn-zoo``: one door to what scripts/ offers, for people without a checkout."""
import importlib
import sys
from typing import Optional, Sequence

from iebn_zoo.util.main import run
from iebn_zoo.version import __version__

__all__ = ['COMMANDS', 'main', 'run']

COMMANDS = {
    'models': ('iebn_zoo.commands.models', 'the networks, and the weights they can start from'),
    'train': ('iebn_zoo.commands.train', 'train a model and leave a run directory'),
    'validate': ('iebn_zoo.commands.validate', 'top-1 and top-5 of a model, a checkpoint or a Hub repository'),
    'predict': ('iebn_zoo.commands.predict', 'classes of images, as a table, CSV, JSON or contact sheet'),
    'gates': ('iebn_zoo.commands.gates', 'the gates that images open in each layer, as a picture and CSV'),
    'export': ('iebn_zoo.commands.hub.export', 'turn a run into a directory that is a Hub repository'),
    'convert': ('iebn_zoo.commands.hub.convert', 'turn BN weights into an IEBN network, or fold gates into BN'),
    'push': ('iebn_zoo.commands.hub.push', 'push such a directory to the Hub and check what arrived'),
    'verify': ('iebn_zoo.commands.hub.verify', 'check that a directory or Hub repository is what was exported'),
    'benchmark': ('iebn_zoo.commands.benchmark', 'time and memory of IEBN against BatchNorm'),
    'compare': ('iebn_zoo.commands.compare', 'train a grid of models and seeds by one recipe: mean and spread'),
    'plot': ('iebn_zoo.commands.plot', 'lay the curves of several runs over each other'),
    'plot-noise': ('iebn_zoo.commands.plot_noise', 'accuracy and batch noise of several runs, BN beside IEBN'),
    'demo': ('iebn_zoo.commands.demo', 'train, export and reload a small model on the digits of scikit-learn'),
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of ``iebn-zoo`` and of ``python -m iebn_zoo``."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] == ['--version']:
        print(__version__)
        return 0
    if not args or args[0] in ('-h', '--help'):
        print(_help())
        return 0 if args else 2
    if args[0] not in COMMANDS:
        print(f"error: unknown command {args[0]!r}.\nExpected one of {', '.join(COMMANDS)}; see iebn-zoo --help.",
              file=sys.stderr)
        return 2
    sys.argv[0] = f'iebn-zoo {args[0]}'  # what argparse shows as the program
    return run(importlib.import_module(COMMANDS[args[0]][0]).main, args[1:])


def _help() -> str:
    lines = [f'  {name:<10} {text}' for name, (_, text) in COMMANDS.items()]
    return '\n'.join(['usage: iebn-zoo COMMAND [ARGUMENTS]', '', *lines, '', 'iebn-zoo COMMAND --help tells the rest.'])
