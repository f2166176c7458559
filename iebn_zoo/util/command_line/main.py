"""Runs the ``main`` of a command: the errors that a user can meet become a message and an exit code."""
import os
import signal
import sys
from contextlib import redirect_stdout
from typing import Callable, Optional, Sequence

from iebn_zoo.util.command_line.output import Watched, drop_unwritable, tell
from iebn_zoo.util.errors import IEBNZooError

Main = Callable[[Optional[Sequence[str]]], int]


def run(main: Main, argv: Optional[Sequence[str]] = None) -> int:
    """Call a command's ``main`` and turn the errors a user can meet into a message and an exit code.

    Args:
        main: Takes the arguments (None for ``sys.argv[1:]``), returns the exit code.
        argv: Arguments.

    Returns:
        0; 2 for a usage error; 1 for a failure, also of writing standard output; 130 after Ctrl-C; 128 plus its number
        after another signal, also if a reader of the output has closed the pipe; 75 if ``--stop-after`` has ended a
        run.
    """
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:  # our parent has closed it, so that nobody reads the output
            setattr(sys, name, open(os.devnull, 'w'))  # noqa: SIM115  for as long as the process lives
    output = Watched(sys.stdout)
    try:
        with redirect_stdout(output):  # type: ignore[type-var]
            code, left = _run(main, argv, output), None
    except SystemExit as e:  # such as after the text of --help
        code, left = (e.code if isinstance(e.code, int) else 0), e
    lost = drop_unwritable() or output.error
    if lost is not None and not code:
        if isinstance(lost, BrokenPipeError):
            return 128 + signal.SIGPIPE
        tell(f'error: standard output cannot be written: {lost.strerror or lost}.\nWrite it to a place with room.')
        return 1
    if left is not None:
        raise left
    return code


def _run(main: Main, argv: Optional[Sequence[str]], output: Watched) -> int:
    try:
        return main(argv)
    except IEBNZooError as e:
        rank, local_rank = _rank('RANK', 'SLURM_PROCID'), _rank('LOCAL_RANK', 'SLURM_LOCALID')
        # all processes have the same mistake in the command line, so one per machine reports it (data and GPUs may
        # differ between machines); a failure may be that of one process
        if '0' in (rank, local_rank) or e.exit_code != 2:
            tell(f'error: {e}' if rank == '0' else f'error (process {rank}): {e}')
        return e.exit_code
    except OSError as e:  # such as a directory that nobody may look into, or a name that is too long
        if e is output.error:  # run() says so, and ends with exit code 1
            return 0
        if isinstance(e, BrokenPipeError):  # standard error has no reader
            return 128 + signal.SIGPIPE
        if e.filename is None:
            raise
        tell(f'error: {e.filename}: {e.strerror or e}.\n'
             f'Look whether it is there, has room, and is yours to read and write.')
        return 1
    except KeyboardInterrupt as e:
        code = getattr(e, 'exit_code', 128 + signal.SIGINT)
        if code > 128:  # --stop-after is no interruption
            tell('interrupted')
        return code


def _rank(*names: str) -> str:
    return next((os.environ[name] for name in names if name in os.environ), '0')
