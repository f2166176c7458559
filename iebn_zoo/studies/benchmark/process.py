"""A command with a time limit, whose output is written as it comes."""
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Mapping, Optional, Sequence

GRACE_S = 5.0  # between SIGTERM, after which a process may write a checkpoint, and SIGKILL


@dataclass
class Outcome:
    """The outcome of a command.

    Args:
        seconds: How long the command ran.
        error: Why the command is not complete; None if it is.
    """

    seconds: float
    error: Optional[str] = None


def run(command: Sequence[str], seconds: float, log: Path, environment: Mapping[str, str]) -> Outcome:
    """Run a command; print its output and write it to ``log`` line by line. End the command and all its processes
    when the time is over.

    Args:
        command: Program and arguments.
        seconds: Until SIGTERM; ``GRACE_S`` later comes SIGKILL.
        log: File for stdout and stderr.
        environment: Of the process.
    """
    start = time.monotonic()
    with open(log, 'wb') as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   env=dict(environment), start_new_session=True)
        reader = threading.Thread(target=_tee, args=(process.stdout, file), daemon=True)
        reader.start()
        in_time = True
        try:
            in_time = _ends_within(process, seconds)
            if not in_time:
                _signal(process, signal.SIGTERM)
                _ends_within(process, GRACE_S)
        finally:
            _signal(process, signal.SIGKILL)  # also the processes that it has left behind, and itself after Ctrl-C
            process.wait()
            reader.join(GRACE_S)
    taken = time.monotonic() - start
    if not in_time:
        return Outcome(taken, f'not done when its {seconds:.0f} s were over')
    return Outcome(taken, None if process.returncode == 0 else f'exit code {process.returncode}')


def _tee(source: IO[bytes], file: IO[bytes]) -> None:
    for line in source:
        file.write(line)
        file.flush()
        sys.stdout.write(line.decode(errors='replace'))
        sys.stdout.flush()


def _ends_within(process: subprocess.Popen, seconds: float) -> bool:
    try:
        process.wait(seconds)
        return True
    except subprocess.TimeoutExpired:
        return False


def _signal(process: subprocess.Popen, number: int) -> None:
    # the group lives on while any of its processes does
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
