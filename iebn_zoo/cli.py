"""The command ``iebn-zoo``, which calls all others and needs no checkout."""
import importlib
import sys
from typing import Optional, Sequence

from iebn_zoo.util.command_line.main import run
from iebn_zoo.util.command_line.output import tell
from iebn_zoo.util.command_line.parser import did_you_mean
from iebn_zoo.version import __version__

__all__ = ['COMMANDS', 'main', 'run']

COMMANDS = {
    'models': ('iebn_zoo.commands.models', 'list the networks and the weights they can start from'),
    'predict': ('iebn_zoo.commands.predict', 'tell the classes of images: a table, CSV, JSON or a contact sheet'),
    'gates': ('iebn_zoo.commands.gates', 'show the gates that images open in each layer: a picture and CSV'),
    'train': ('iebn_zoo.commands.train', 'train a network and leave a run directory'),
    'validate': ('iebn_zoo.commands.validate', 'measure top-1 and top-5 of a network on labelled images'),
    'plot': ('iebn_zoo.commands.plot', 'draw the curves of several runs over each other'),
    'demo': ('iebn_zoo.commands.demo', 'train, export and reload a small network on the digits of scikit-learn'),
    'export': ('iebn_zoo.commands.hub.export', 'turn a run into a directory that is a Hub repository'),
    'convert': ('iebn_zoo.commands.hub.convert', 'turn BN weights into an IEBN network, or fold gates into BN'),
    'push': ('iebn_zoo.commands.hub.push', 'push such a directory to the Hub and check what arrived'),
    'verify': ('iebn_zoo.commands.hub.verify', 'check that a directory or Hub repository is what was exported'),
    'compare': ('iebn_zoo.commands.compare', 'train a grid of networks and seeds by one recipe: mean and spread'),
    'benchmark': ('iebn_zoo.commands.benchmark', 'measure time and memory of IEBN against BatchNorm'),
    'plot-noise': ('iebn_zoo.commands.plot_noise', 'draw accuracy and batch noise of several runs'),
}
GROUPS = {
    'look': ('models', 'predict', 'gates'),
    'train': ('train', 'validate', 'plot', 'demo'),
    'share': ('export', 'convert', 'push', 'verify'),
    'measure': ('compare', 'benchmark', 'plot-noise'),
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of ``iebn-zoo`` and of ``python -m iebn_zoo``."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] == ['--version']:
        return run(lambda _: print(__version__) or 0)
    if not args or args[0] in ('-h', '--help'):
        return run(lambda _: print(_help()) or (0 if args else 2))
    if args[0] not in COMMANDS:
        hint = ' '.join(filter(None, (did_you_mean(args[0], (*COMMANDS, '--help', '--version')),
                                      f'Expected one of {", ".join(COMMANDS)}.')))
        tell(f'error: unknown command {args[0]!r}.\n{hint}\nusage: iebn-zoo COMMAND [ARGUMENTS]; see iebn-zoo --help')
        return 2
    sys.argv[0] = f'iebn-zoo {args[0]}'  # what argparse shows as the program
    # the imports take seconds, in which somebody may press Ctrl-C
    return run(lambda argv: importlib.import_module(COMMANDS[args[0]][0]).main(argv), args[1:])


def _help() -> str:
    lines = ['usage: iebn-zoo COMMAND [ARGUMENTS]']
    for group, names in GROUPS.items():
        lines += ['', f'{group}:', *(f'  {name:<11} {COMMANDS[name][1]}' for name in names)]
    return '\n'.join([*lines, '', 'iebn-zoo COMMAND --help lists the flags of a command; iebn-zoo --version tells the '
                      'version.'])
