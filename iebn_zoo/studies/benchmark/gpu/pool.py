"""Runs the jobs of a part within its time, each in a process of its own."""
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from typing import Any, Callable, Dict, List, Optional, Sequence

from iebn_zoo.studies.benchmark.gpu.parts import Job, Part
from iebn_zoo.util.resources import ROOT

Record = Dict[str, Any]
READY_SHARE = 0.8  # of a part's time; a job that is not ready then is left out, because the rest is for measuring
WORKER = (sys.executable, '-m', 'iebn_zoo.studies.benchmark.gpu.worker')


def run_part(
        part: Part, seconds: float, on_record: Callable[[Job, Record], None], command: Sequence[str] = WORKER,
) -> List[Optional[str]]:
    """Prepare all jobs at the same time, then let one after the other measure, so that no job disturbs another.

    If a check of the part fails or is late, nothing of the part is measured.

    Args:
        part: What to run.
        seconds: For the whole part; jobs that are not done then are ended.
        on_record: Called with each record as it comes.
        command: What is started for each job; it reads the job, a line of JSON, from its stdin.

    Returns:
        Why each job is incomplete; None for a complete job.
    """
    start = time.monotonic()
    ready_in = (1.0 if all(job.task == 'check' for job in part.jobs) else READY_SHARE) * seconds
    messages: queue.Queue[Any] = queue.Queue()
    workers = [_Worker(command, job, len(part.jobs), messages) for job in part.jobs]
    try:
        _until(start + ready_in, messages, lambda: not any(w.is_preparing for w in workers), on_record)
        late = f'not ready after {ready_in:.0f} s'
        for worker in workers:
            if worker.is_preparing:
                worker.end(late)
        failed_check = next((w.error for w in workers if w.job.task == 'check' and w.error), None)
        for worker in workers:
            if worker.error is None and failed_check is not None:
                worker.end(f'not measured, because of the check: {failed_check}')
            elif worker.error is None:
                worker.go()
                _until(start + seconds, messages, lambda worker=worker: worker.is_done, on_record)
                if not worker.is_done:
                    worker.end(f'not done when the {seconds:.0f} s of this part were over')
        return [worker.error for worker in workers]
    finally:
        for worker in workers:
            worker.end('interrupted')


def _until(
        deadline: float, messages: 'queue.Queue[Any]', is_over: Callable[[], bool],
        on_record: Callable[[Job, Record], None],
) -> None:
    """Take messages until ``is_over()`` or the deadline."""
    while not is_over():
        try:
            worker, message = messages.get(timeout=max(deadline - time.monotonic(), 0.0))
        except queue.Empty:
            return
        if worker.takes(message):
            on_record(worker.job, message)


class _Worker:
    """A process and its state.

    Args:
        command: Command to start.
        job: Job of the process.
        others: Number of processes that work at the same time, itself included.
        messages: Receives (this, message) of each line, and (this, None) at the end.
    """

    def __init__(self, command: Sequence[str], job: Job, others: int, messages: 'queue.Queue[Any]') -> None:
        self.job, self.error = job, None
        self.is_preparing, self.is_done, self.is_ended = True, False, False
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115  for as long as the worker lives
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(
            filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))))
        environment.setdefault('TORCHINDUCTOR_COMPILE_THREADS', str(max(1, (os.cpu_count() or 1) // others)))
        self.process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr, env=environment,
            start_new_session=True)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        threading.Thread(target=self._read, args=(messages,), daemon=True).start()

    def _read(self, messages: 'queue.Queue[Any]') -> None:
        # this thread writes the job, because a long one waits in the pipe until the process reads it
        self._write(json.dumps(self.job.to_json()))
        with suppress(ValueError):  # a process that was ended leaves half a line
            for line in self.stdout:
                messages.put((self, json.loads(line)))
        messages.put((self, None))

    def takes(self, message: Optional[Record]) -> bool:
        """Note what a message says of the process; tell whether the message is a record."""
        if self.is_done:
            return False
        if message is None:
            if self.process.wait() != 0 and self.error is None:
                self.error = f'the process ended with {self.process.returncode}: {self._last_line()}'
            self.is_preparing, self.is_done = False, True
        elif 'failed' in message:
            self.error = message['message' if self.job.task == 'check' else 'failed']
            self.is_preparing = False
        elif 'ready' in message:
            self.is_preparing = False
        else:
            return True
        return False

    def go(self) -> None:
        """Let it measure."""
        self._write('go')

    def _write(self, line: str) -> None:
        with suppress(BrokenPipeError, ValueError):  # the process has ended, which a message tells
            self.stdin.write(line + '\n')
            self.stdin.flush()

    def end(self, why: str) -> None:
        """End the process and all that it has started. ``why`` becomes its error unless it is done or has an error."""
        if self.is_ended:
            return
        if not self.is_done:
            self.error = self.error or why
        self.is_preparing, self.is_done, self.is_ended = False, True, True
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for file in (self.stdin, self.stderr):
            with suppress(BrokenPipeError):
                file.close()

    def _last_line(self) -> str:
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors='replace').strip().splitlines()
        return lines[-1][:300] if lines else 'nothing was said'
