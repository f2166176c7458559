"""The command ``iebn-zoo``: one door to what scripts/ offers, for people without a checkout."""
import importlib
import os
import signal
import sys
from typing import Callable, Optional, Sequence

from iebn_zoo.errors import IEBNZooError
from iebn_zoo.version import __version__

Main = Callable[[Optional[Sequence[str]]], int]

COMMANDS = {
    'models': ('iebn_zoo.commands.models', 'the networks, and the weights they can start from'),
    'train': ('iebn_zoo.training.train', 'train a model and leave a run directory'),
    'validate': ('iebn_zoo.training.validate', 'top-1 and top-5 of a model, a checkpoint or a Hub repository'),
    'predict': ('iebn_zoo.commands.predict', 'classes of images, as a table, CSV, JSON or contact sheet'),
    'gates': ('iebn_zoo.commands.gates', 'the gates that images open in each layer, as a picture and CSV'),
    'export': ('iebn_zoo.hub.export_command', 'turn a run into a directory that is a Hub repository'),
    'convert': ('iebn_zoo.hub.convert_command', 'turn BN weights into an IEBN network, or fold gates into BN'),
    'push': ('iebn_zoo.hub.push', 'push such a directory to the Hub and check what arrived'),
    'verify': ('iebn_zoo.hub.verify_command', 'check that a directory or Hub repository is what was exported'),
    'benchmark': ('iebn_zoo.benchmark.command', 'time and memory of IEBN against BatchNorm'),
    'compare': ('iebn_zoo.compare.command', 'train a grid of models and seeds by one recipe: mean and spread'),
    'plot': ('iebn_zoo.plots.command', 'lay the curves of several runs over each other'),
    'plot-noise': ('iebn_zoo.noise.plot', 'accuracy and batch noise of several runs, BN beside IEBN'),
    'demo': ('iebn_zoo.demo', 'train, export and reload a small model on the digits of scikit-learn'),
}


def run(main: Main, argv: Optional[Sequence[str]] = None) -> int:
    """Call a command's ``main`` and turn the errors a user can meet into a message and an exit code.

    Args:
        main: Takes the arguments (None for ``sys.argv[1:]``), returns the exit code.
        argv: Arguments.

    Returns:
        0, or 2 for a usage error, 1 for a failure, 130 after Ctrl-C, 128 and its number after another signal,
        also where a reader of the output has closed the pipe; 75 where ``--stop-after`` has ended a run.
    """
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:  # closed by whoever started us: nobody reads what is said
            setattr(sys, name, open(os.devnull, 'w'))  # noqa: SIM115  for as long as the process lives
    try:
        code = main(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # whoever read the output has enough, as head does; what is still in the buffer must not be tried at exit again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except IEBNZooError as e:
        rank, local_rank = _rank('RANK', 'SLURM_PROCID'), _rank('LOCAL_RANK', 'SLURM_LOCALID')
        # a mistake in the command line is every process's: one of each machine, whose data or GPUs may differ, says it;
        # a failure may be one process's own
        if '0' in (rank, local_rank) or e.exit_code != 2:
            print(f'error: {e}' if rank == '0' else f'error (process {rank}): {e}', file=sys.stderr, flush=True)
        return e.exit_code
    except KeyboardInterrupt as e:
        code = getattr(e, 'exit_code', 128 + signal.SIGINT)
        if code > 128:  # the end of --stop-after is no interruption
            print('interrupted', file=sys.stderr, flush=True)
        return code


def _rank(*names: str) -> str:
    return next((os.environ[name] for name in names if name in os.environ), '0')


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
