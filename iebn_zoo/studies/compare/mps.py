"""NVIDIA's Multi-Process Service: kernels of several processes run on one GPU at the same time.

Without it the processes of a GPU take turns, so that small networks leave most of the GPU idle in each turn.
"""
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from typing import Dict, Iterator, Optional

_CONTROL = 'nvidia-cuda-mps-control'
_SECONDS = 30  # for the service to start, and to end


@contextmanager
def mps(wanted: bool) -> Iterator[Dict[str, str]]:
    """Start the service for the block, in a directory of its own, and leave other services of the machine alone.

    Args:
        wanted: False starts nothing.

    Yields:
        The variables by which a process finds the service. If the service cannot start, there are none, and a note says
        why.
    """
    if not wanted:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix='mps') as directory:
        variables = {'CUDA_MPS_PIPE_DIRECTORY': directory, 'CUDA_MPS_LOG_DIRECTORY': directory}
        reason = _control('-d', variables=variables)
        if reason is not None:
            print(f'note: --mps: {reason}; the runs take turns', file=sys.stderr, flush=True)
            yield {}
            return
        try:
            yield variables
        finally:
            _control(command='quit', variables=variables)


def _control(*argv: str, variables: Dict[str, str], command: str = '') -> Optional[str]:
    """Run the service's control program; returns what went wrong, or None."""
    if shutil.which(_CONTROL) is None:
        return f'there is no {_CONTROL}'
    try:
        # to files, not pipes: the daemon would keep a pipe open, and reading it to its end would wait for the daemon
        with tempfile.TemporaryFile() as said:
            result = subprocess.run([_CONTROL, *argv], input=f'{command}\n'.encode() if command else b'', stdout=said,
                                    stderr=said, env={**os.environ, **variables}, timeout=_SECONDS)
            said.seek(0)
            lines = said.read().decode(errors='replace').strip().splitlines()
    except (OSError, subprocess.TimeoutExpired) as e:
        return f'{_CONTROL}: {e}'
    return None if result.returncode == 0 else f'{_CONTROL}: {lines[0] if lines else f"exit code {result.returncode}"}'
