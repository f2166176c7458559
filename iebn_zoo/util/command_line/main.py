"""Runs the ``main`` of a command: the errors that a user can meet become a message and an exit code."""
import errno
import os
import signal
import sys
from typing import Callable, Optional, Sequence

from iebn_zoo.util.command_line.output import drop_unwritable, tell
from iebn_zoo.util.errors import IEBNZooError

_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_LOST = 'error: standard output cannot be written: {}.\nWrite it to a place with room.'
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
    try:
        code, left = _run(main, argv), None
    except SystemExit as e:  # such as after the text of --help
        code, left = (e.code if isinstance(e.code, int) else 0), e
    lost = drop_unwritable()
    if lost is not None and not code:
        if isinstance(lost, BrokenPipeError):
            return 128 + signal.SIGPIPE
        tell(_LOST.format(lost.strerror or lost))
        return 1
    if left is not None:
        raise left
    return code


def _run(main: Main, argv: Optional[Sequence[str]]) -> int:
    try:
        return main(argv)
    except BrokenPipeError:  # the reader has closed the pipe, as head does
        return 128 + signal.SIGPIPE
    except IEBNZooError as e:
        rank, local_rank = _rank('RANK', 'SLURM_PROCID'), _rank('LOCAL_RANK', 'SLURM_LOCALID')
        # all processes have the same mistake in the command line, so one per machine reports it (data and GPUs may
        # differ between machines); a failure may be that of one process
        if '0' in (rank, local_rank) or e.exit_code != 2:
            tell(f'error: {e}' if rank == '0' else f'error (process {rank}): {e}')
        return e.exit_code
    except OSError as e:  # such as a directory that nobody may look into, or a name that is too long
        if e.filename is not None:
            tell(f'error: {e.filename}: {e.strerror or e}.\n'
                 f'Look whether it is there, has room, and is yours to read and write.')
        elif e.errno in _OF_WRITING:  # files have errors of their own, see atomic_write: it was standard output
            tell(_LOST.format(e.strerror or e))
        else:
            raise
        return 1
    except KeyboardInterrupt as e:
        code = getattr(e, 'exit_code', 128 + signal.SIGINT)
        if code > 128:  # --stop-after is no interruption
            tell('interrupted')
        return code


def _rank(*names: str) -> str:
    return next((os.environ[name] for name in names if name in os.environ), '0')
