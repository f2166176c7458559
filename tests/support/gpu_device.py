"""The device of these tests: a GPU, or the CPU in a dry run.

They need a GPU and are skipped, in one line, where there is none. With IEBN_ZOO_GPU_DRY_RUN=1 their bodies run on the
CPU, with plain calls in the place of graphs and streams: that finds what is wrong with the tests themselves.
"""
import fcntl
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from iebn_zoo.studies.benchmark.gpu.check import DRY_RUN

CUDA = torch.cuda.is_available()
DEVICE = torch.device('cuda', 0) if CUDA else torch.device('cpu')
LAYOUTS = {'nchw': torch.contiguous_format, 'nhwc': torch.channels_last}
layouts = pytest.mark.parametrize('layout', LAYOUTS.values(), ids=list(LAYOUTS))


def require_gpu():
    """At the top of a module: skip it as a whole. All modules skip here, which pytest reports as one line."""
    if not CUDA and os.environ.get(DRY_RUN) != '1':
        pytest.skip('no GPU', allow_module_level=True)


@contextmanager
def much_memory(gigabytes):
    """Hold that much of the GPU, for one test process at a time; where less is free, skip the test."""
    with open(Path(tempfile.gettempdir()) / f'iebn_zoo_large_test_{os.getuid()}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if CUDA and torch.cuda.mem_get_info()[0] < gigabytes * 1e9:
            pytest.skip(f'needs {gigabytes} GB of free GPU memory')
        yield
        if CUDA:
            torch.cuda.empty_cache()


@contextmanager
def side_stream():
    """A context whose work runs on a stream of its own, while the default stream has much else to do."""
    if not CUDA:
        yield
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    other = torch.randn(4096, 4096, device=DEVICE)
    for _ in range(20):
        other = other @ other / 64
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def graphed(module, example):
    """``torch.cuda.make_graphed_callables``; in a dry run the module itself."""
    return torch.cuda.make_graphed_callables(module, (example,)) if CUDA else module
