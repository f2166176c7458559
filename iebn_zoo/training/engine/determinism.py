"""Which algorithms torch chooses: the fastest, or with ``--deterministic`` those that repeat their bits on a GPU."""
import os
from contextlib import contextmanager
from typing import Any, Iterator

import torch


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Make torch choose deterministic algorithms for the block, or raise where there is none.

    If not ``enabled``, cuDNN times its convolutions at each new shape of the images and takes the fastest, as in timm's
    train.py. Enter it before the first CUDA call: cuBLAS reads its workspace setting once.
    """
    if not enabled:
        benchmark = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True  # has no effect on the CPU
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = benchmark
        return
    memory: Any = torch.utils.deterministic  # its switch is a property of a module, which type checkers do not know
    before = (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic,
              torch.backends.cudnn.benchmark, memory.fill_uninitialized_memory)
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    memory.fill_uninitialized_memory = False  # it would find reads of torch.empty, and costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[1:3]
        memory.fill_uninitialized_memory = before[3]
