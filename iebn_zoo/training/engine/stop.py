"""Signals and the deadline: the run ends its update, writes a checkpoint, and says how to go on."""
import signal
import threading
import time
from types import FrameType
from typing import Any, Dict, Optional

# from Ctrl-C, from schedulers and container runtimes, from a closed terminal, and from SLURM before the time is over
NAMES = ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1')
DEADLINE = 65  # the end of --stop-after; the numbers of signals end at 64
DEADLINE_EXIT = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on


class Stopped(KeyboardInterrupt):
    """The run has stopped for a signal or the deadline.

    Attributes:
        number: The number of the signal, or DEADLINE.
        saved: A checkpoint of this point was written.
        exit_code: The exit code of the process: 128 plus the number of the signal, or DEADLINE_EXIT.
    """

    def __init__(self, number: int, saved: bool) -> None:
        super().__init__('--stop-after' if number == DEADLINE else signal.Signals(number).name)
        self.number = number
        self.saved = saved
        self.exit_code = DEADLINE_EXIT if number == DEADLINE else 128 + number


class StopSignals:
    """While entered, remembers the first signal; the second one stops the run at once.

    A signal that the process ignores, as SIGHUP under nohup, stays ignored. Outside the main thread Python cannot
    handle signals, and nothing changes.

    Args:
        minutes: The time from now until the deadline; None for no deadline.
    """

    def __init__(self, minutes: Optional[float] = None) -> None:
        self._first: Optional[int] = None
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._before: Dict[int, Any] = {}

    @property
    def received(self) -> Optional[int]:
        """The number of the first signal, DEADLINE after the deadline, or None."""
        if self._first is None and self._deadline is not None and time.monotonic() >= self._deadline:
            return DEADLINE
        return self._first

    @property
    def signal(self) -> Optional[int]:
        """The number of the first signal, or None, also after the deadline."""
        return self._first

    def __enter__(self) -> 'StopSignals':
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        if self._first is not None:
            raise Stopped(number, saved=False)
        self._first = number

