"""Runs push and verify many times, each in a process forked from one that imported the client in the right environment.

``import timm`` takes seconds, and huggingface_hub reads HF_ENDPOINT and HF_HOME at import: one process imports for all.
A fork for each command, because a push that gave up leaves threads of the client behind, which go on trying and write
to file descriptor 2: for users they end with the process, and here they may not write into the next command's output.
"""
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from dataclasses import dataclass
from typing import Dict, Optional, Sequence

from tests.support.hub.loopback import READ_TOKEN, WRITE_TOKEN
from tests.support.paths import ROOT

SECRETS = (WRITE_TOKEN, READ_TOKEN, 'hf_nobodyKnowsThisToken')


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code and everything that reached file descriptors 1 and 2."""

    code: int
    stdout: str
    stderr: str

    def __post_init__(self):
        for secret in SECRETS:  # no case, good or bad, may show a token
            assert secret not in self.stdout + self.stderr, 'a token was printed'

    def fails(self, code: int, *words: str) -> None:
        """Assert a failure as users must meet it: exit code, at most three lines, the words, no traceback."""
        assert self.code == code, self
        assert 'Traceback' not in self.stderr and not self.stdout, self
        message = self.stderr[self.stderr.index('error: '):].strip().splitlines()
        assert 1 < len(message) <= 3, message
        for word in words:
            assert word in '\n'.join(message), (word, message)


class Driver:
    """A client process, started with ``env``.

    Args:
        env: Variables beside those of this process.
        python: Starts it, and what its commands start.
    """

    def __init__(self, env: Dict[str, str], python: Optional[str] = None):
        python = python or sys.executable
        clean = {key: value for key, value in os.environ.items() if not key.startswith(('HF_', 'HUGGING'))}
        self._process = subprocess.Popen(
            [python, '-m', 'tests.support.hub.driver', python], cwd=ROOT, env={**clean, 'OMP_NUM_THREADS': '1', **env},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def push(self, *argv: object, token: Optional[str] = WRITE_TOKEN, timeout: Optional[float] = None) -> Outcome:
        """Run ``push_to_hub.py ARGV`` with HF_TOKEN set to ``token`` and, if given, another limit in seconds."""
        return self._run('push', argv, token, timeout)

    def verify(self, *argv: object, token: Optional[str] = WRITE_TOKEN, timeout: Optional[float] = None) -> Outcome:
        """The same for ``iebn-zoo verify ARGV``."""
        return self._run('verify', argv, token, timeout)

    def _run(self, command: str, argv: Sequence[object], token: Optional[str], timeout: Optional[float]) -> Outcome:
        # for a hang; a busy machine may well take a minute
        watchdog = threading.Timer(600, os.killpg, (self._process.pid, signal.SIGKILL))
        watchdog.start()
        try:
            request = {'command': command, 'argv': [str(a) for a in argv], 'token': token, 'timeout': timeout}
            self._stdin.write(json.dumps(request) + '\n')
            self._stdin.flush()
            return Outcome(**json.loads(self._stdout.readline()))
        finally:
            watchdog.cancel()

    def close(self) -> None:
        self._stdin.write('null\n')  # not the end of the pipe: a forked process may hold a copy of it
        self._stdin.close()
        self._stdout.close()
        self._process.wait(timeout=600)  # a busy machine may well take a minute


def _run(request: dict) -> dict:
    """Run the command of ``request`` in a fork of this process: its exit code and output."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)  # loggers and child processes write past sys.stderr
            code = 70  # of an exception that the command line lets through
            try:
                signal.alarm(600)  # also where nobody is left to end it
                code = _command(request)
            except BaseException:
                traceback.print_exc()
            finally:
                try:
                    sys.stdout.flush()
                    sys.stderr.flush()
                finally:  # nothing of the parent's is to be done twice, and no thread of the client is waited for
                    os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        err.seek(0)
        return {'code': code, 'stdout': out.read().decode(), 'stderr': err.read().decode()}


def _command(request: dict) -> int:
    from iebn_zoo.cli import run
    from iebn_zoo.commands.hub import push
    from iebn_zoo.commands.hub import verify as verify_command
    from iebn_zoo.hub.push.patience import VARIABLE

    os.environ.pop('HF_TOKEN', None)
    if request['token'] is not None:
        os.environ['HF_TOKEN'] = request['token']
    os.environ.pop(VARIABLE, None)
    if request['timeout']:
        os.environ[VARIABLE] = str(request['timeout'])
    try:
        return run({'push': push, 'verify': verify_command}[request['command']].main, request['argv'])
    except SystemExit as e:  # argparse
        return e.code if isinstance(e.code, int) else 1


if __name__ == '__main__':
    sys.executable = sys.argv[1]
    for module in ('PIL.Image', 'iebn_zoo.cli', 'iebn_zoo.commands.hub.push', 'iebn_zoo.commands.hub.verify'):
        importlib.import_module(module)  # once, not in every fork
    for line in sys.stdin:
        request = json.loads(line)
        if request is None:
            break
        print(json.dumps(_run(request)), flush=True)
