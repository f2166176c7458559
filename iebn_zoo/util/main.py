"""Runs the ``main`` of a command: the errors that a user can meet become a message and an exit code."""
import os
import signal
import sys
from typing import Callable, Optional, Sequence

from iebn_zoo.util.errors import IEBNZooError

Main = Callable[[Optional[Sequence[str]]], int]


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
