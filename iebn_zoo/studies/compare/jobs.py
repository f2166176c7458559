"""Run processes, some at once, each with a log file. If one fails, the others continue."""
import os
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

from iebn_zoo.util.errors import IEBNZooError

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None

GRACE_SECONDS = 60.0
_POLL_SECONDS = 0.2


@dataclass
class Job:
    """Commands that run one after another, until one fails.

    Attributes:
        name: For messages.
        commands: Called in order, each when its turn comes; one that returns None is skipped.
        log: File to which their output is appended. It is locked while one of them runs.
        seconds: How long the job ran.
        code: Exit code of the last command, once it is over.
        locked: Another process holds the log, perhaps one that outlived its parent.
        before: Bytes that the log had before the last command. They are of earlier commands and earlier attempts.
    """

    name: str
    commands: List[Callable[[], Optional[Sequence[str]]]]
    log: Path
    seconds: float = 0.0
    code: Optional[int] = None
    locked: bool = False
    before: int = 0

    def error(self) -> str:
        """Return the message of the failed command in one line."""
        if self.locked:
            return 'another process is running it'
        written = self.log.read_bytes()[self.before:].decode('utf-8', errors='replace')
        lines = [line for line in map(str.strip, written.splitlines()) if line]
        start = max((i for i, line in enumerate(lines) if line.startswith('error')), default=len(lines) - 1)
        return ' '.join(lines[start:start + 3]) or f'exit code {self.code}'


def run_jobs(
        jobs: Sequence[Job],
        slots: int,
        env: Mapping[str, str],
        started: Callable[[Job], None],
        ended: Callable[[Job], None],
        waiting: Callable[[], None],
        over: Callable[[], bool] = lambda: False,
) -> None:
    """Run all jobs, ``slots`` at once.

    Args:
        jobs: In the order in which they start.
        slots: Processes at once.
        env: Environment of the processes.
        started: Called with a job before its first process.
        ended: Called with a job once its ``code`` is set.
        waiting: Called several times a second.
        over: Once it returns True, no more jobs start; their ``code`` stays None.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; the processes got SIGINT, or SIGTERM where SIGINT is ignored, and have
            ended.
        IEBNZooError: A process cannot be started.
    """
    queue, running = list(jobs), {}
    with _terminate_as_interrupt():
        try:
            while queue or running:
                if over():
                    queue = []
                while queue and len(running) < slots:
                    job = queue.pop(0)
                    started(job)
                    running[_Running(job, env)] = job
                for process in [p for p in running if p.over()]:
                    ended(running.pop(process))
                waiting()
                time.sleep(_POLL_SECONDS)
        except BaseException:
            _stop(list(running))
            raise


class _Running:
    def __init__(self, job: Job, env: Mapping[str, str]) -> None:
        self.job, self.env = job, env
        self.commands = iter(job.commands)
        self.start = time.perf_counter()
        self.process: Optional[subprocess.Popen] = None
        self.job.code = 0
        self._next()

    def over(self) -> bool:
        """Tell whether the job has ended, and start its next command when one has ended."""
        if self.process is not None:
            if self.process.poll() is None:
                return False
            self.job.code = self.process.returncode
            if self.job.code == 0:
                self._next()
        if self.process is not None and self.job.code == 0:
            return False
        self.job.seconds = time.perf_counter() - self.start
        return True

    def _next(self) -> None:
        self.process = None
        command = next((c for c in (make() for make in self.commands) if c is not None), None)
        if command is None:
            return
        try:
            self.job.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.job.log, 'ab') as log:
                if not _lock(log):
                    self.job.locked, self.job.code = True, 1
                    return
                self.job.before = os.fstat(log.fileno()).st_size
                # with a session of its own, the process gets Ctrl-C once, from us, and not from the terminal too
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(self.env),
                    start_new_session=True)
        except OSError as e:
            raise IEBNZooError(f'cannot start {self.job.name} with {self.job.log}: {e.strerror or e}.\n'
                               f'Give --output a writable place.') from e


def _lock(file: IO[bytes]) -> bool:
    # the process inherits the open file, and with it the lock, for as long as it lives
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stop(running: Sequence[_Running]) -> None:
    alive = [r.process for r in running if r.process is not None and r.process.poll() is None]
    # what nohup or a shell starts in the background may ignore SIGINT, and its processes inherit that
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    for process in alive:
        process.send_signal(signal.SIGTERM if ignored else signal.SIGINT)
    deadline = time.monotonic() + GRACE_SECONDS
    try:
        for process in alive:
            process.wait(max(0.1, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # too slow, or asked a second time
        for process in alive:
            process.kill()
            process.wait()


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    # a batch system ends a job with SIGTERM, a closed terminal with SIGHUP: the runs must end with us
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ('SIGTERM', 'SIGHUP') if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # only the main thread may set handlers
    taken = [n for n in numbers if signal.getsignal(n) is signal.SIG_DFL]  # nohup ignores SIGHUP: so do we
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def environment(slots: int, on_cpu: bool) -> Dict[str, str]:
    """Return this process's environment; on the CPU ``slots`` share the cores, unless the user has set it."""
    env = dict(os.environ)
    if on_cpu and slots > 1:
        env.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // slots)))
    return env
