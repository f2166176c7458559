"""A stand-in for ``sys.executable`` whose processes start with torch imported already.

A fresh interpreter imports torch and torchvision in some three seconds, and the suite starts more than a hundred of
them. While a module with the fixture ``warm_python`` runs, ``sys.executable`` is a program that has a server fork such
a process, for the tests and for the commands that they call. The process has its own variables, directory, arguments
and streams, imports iebn_zoo, timm and huggingface_hub anew, and ends with the exit code of Python.

What such a process hides: it has imported what its program may have forgotten to import (``PIL.Image``), all of them
have one hash seed and one state of ``numpy.random``, and at the end nothing is torn down (an open file that nobody
closes is not flushed). So the code of documents runs in the real interpreter, and tests of the interpreter's start and
end, of pids and of SIGKILL use it too: the pid is that of the stand-in, which only passes signals on.
"""
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.support.warm import client

_HERE = Path(__file__).parent


class WarmPython:
    """The server, and the program that stands for Python.

    Args:
        directory: A short path, where the program and the socket are made; that of a socket has at most 107 bytes.
    """

    def __init__(self, directory: Path) -> None:
        self.socket, self.executable, expected = directory / 's', directory / 'python', directory / 'expected.json'
        expected.write_text(json.dumps(client.snapshot()))
        words = [sys.executable, '-IS', str(_HERE / 'client.py'), str(self.socket), str(expected)]
        self.executable.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        self.executable.chmod(0o755)
        self.server = subprocess.Popen(
            [sys.executable, str(_HERE / 'server.py'), str(self.socket)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, 'KINETO_LOG_LEVEL': '6'}, start_new_session=True)
        assert self.server.stdout is not None and self.server.stdout.readline() == b'ready\n'

    def close(self) -> None:
        """End the server; programs that are still running go on."""
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.close()
        self.server.stdout.close()
        self.server.wait(timeout=60)
