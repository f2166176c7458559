"""Signals that ask a run to stop: it ends the update it is in, writes a checkpoint, and says how to go on."""
import signal
import threading
from types import FrameType
from typing import Any, Dict, Optional

# Ctrl-C, schedulers and container runtimes, a closed terminal, and what SLURM is asked to send before the time is over
NAMES = ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1')


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and has.

    Attributes:
        number: Of the signal.
        saved: A checkpoint was written for it.
    """

    def __init__(self, number: int, saved: bool) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.saved = saved


class StopSignals:
    """While entered, the first signal is noted and the second stops the run at once.

    A signal that the process ignores, as SIGHUP under nohup, stays ignored. Outside the main thread, where Python can
    handle no signals, nothing is changed.

    Attributes:
        received: Number of the first signal, or None.
    """

    def __init__(self) -> None:
        self.received: Optional[int] = None
        self._before: Dict[int, Any] = {}

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
        if self.received is not None:
            raise Stopped(number, saved=False)
        self.received = number

