"""The machine: its facts, its copy bandwidth, and whether it can compile."""
import random
import statistics
import time
from typing import Any, Dict

import torch

from iebn_zoo.training.run.records import environment
from iebn_zoo.util.errors import UsageError

FACTS = ('cpu', 'cpu_count', 'threads', 'gpu', 'device', 'platform', 'python', 'torch', 'timm', 'iebn_zoo', 'started')
_COPIED_BYTES = 2 ** 28


def facts(device: torch.device) -> Dict[str, Any]:
    """Return hardware and versions under the names of ``FACTS``."""
    everything = environment(device, num_processes=1)
    return {name: everything[name] for name in FACTS}


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all its work."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device, rounds: int = 20) -> float:
    """Measure the bytes per second that a copy of a large tensor reads and writes, about the memory's limit."""
    source = torch.ones(_COPIED_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    seconds = []
    for _ in range(rounds):
        synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * _COPIED_BYTES / statistics.median(seconds)


def cache_bytes(device: torch.device) -> int:
    """Return the size of a GPU's last cache. A smaller tensor may never reach the memory."""
    return torch.cuda.get_device_properties(device).L2_cache_size


def check_compiler(backend: str, device: torch.device) -> None:
    """Compile and run a small function.

    Raises:
        UsageError: The compilation fails: no C++ compiler (CPU), no Triton (CUDA), no such backend.
    """
    new = random.random()  # a new constant, so that no cache of an earlier compilation is used
    try:
        torch.compile(lambda x: (x * new).sum() + new, backend=backend)(torch.ones(64, device=device))
    except Exception as e:
        reason = next(iter(str(e).strip().splitlines()), type(e).__name__)
        raise UsageError(
            f'torch.compile with backend {backend!r} does not work here: {reason[:200]}\n'
            f'Expected a C++ compiler for the CPU (CXX names one), Triton for CUDA; or leave compile out.') from e
    finally:
        torch.compiler.reset()
