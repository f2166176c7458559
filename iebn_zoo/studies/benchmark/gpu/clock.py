"""Time on a GPU: that of the kernels, by replay of a CUDA graph with a cold cache; and that of the host."""
import time
from typing import Any, Callable, Optional

import torch

from iebn_zoo.studies.benchmark.machine import cache_bytes, synchronize

WARM_UP = 3
_DRY_CACHE_BYTES = 2 ** 16


class Replay:
    """A captured CUDA graph and what its work returned: tensors that each replay fills anew.

    Args:
        graph: The captured graph; None on the CPU, where a replay is a plain call of ``work``.
        work: What was captured.
        result: What it returned.
    """

    def __init__(self, graph: Optional[torch.cuda.CUDAGraph], work: Callable[[], Any], result: Any) -> None:
        self.graph, self.work, self.result = graph, work, result

    def __call__(self) -> None:
        if self.graph is None:
            self.result = self.work()
        else:
            self.graph.replay()


def warm_up(work: Callable[[], Any], device: torch.device, times: int = WARM_UP) -> None:
    """Call ``work`` on a stream of its own, as a capture needs it: compiled, and its algorithms chosen."""
    if device.type != 'cuda':
        for _ in range(times):
            work()
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(times):
            work()
    torch.cuda.current_stream(device).wait_stream(stream)
    synchronize(device)
    torch.cuda.empty_cache()  # a capture that runs out of memory cannot take back what other streams have cached


def capture(work: Callable[[], Any], device: torch.device, pool: Any = None) -> Replay:
    """Capture ``work`` in a CUDA graph; on the CPU, keep it for plain calls.

    Args:
        work: Launches kernels. On a GPU it must be warmed up, and must hold no graph of autograd of the warm-up.
        device: Where.
        pool: Of ``shared_pool``: memory of several captures, which are never replayed at the same time. A tensor that
            one of them returned stays valid as long as it is held.
    """
    if device.type != 'cuda':
        return Replay(None, work, work())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        result = work()
    return Replay(graph, work, result)


def shared_pool(device: torch.device) -> Any:
    """Make a memory pool for several captures; None on the CPU."""
    return torch.cuda.graph_pool_handle() if device.type == 'cuda' else None


class Clock:
    """Times replays with a cold cache.

    Before each replay it writes a buffer of twice the size of the last cache, so that a kernel does not find its input
    there, as in a network. The writing comes before the first event and is not part of the time.

    Args:
        device: Where.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        size = 2 * cache_bytes(device) if device.type == 'cuda' else _DRY_CACHE_BYTES
        self.flush = torch.empty(size, dtype=torch.uint8, device=device)

    def kernel_seconds(self, replay: Callable[[], None]) -> float:
        """Measure the GPU time of one replay between two events, or its wall time on the CPU."""
        synchronize(self.device)
        self.flush.zero_()
        if self.device.type != 'cuda':
            start = time.perf_counter()
            replay()
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()  # while the buffer is still being written: the replay is queued before the GPU comes to it
        replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def host_seconds(self, work: Callable[[], Any]) -> float:
        """Measure the wall time of issuing ``work`` to an idle GPU without waiting for it.

        On the CPU the time of the work is part of it. A network of more than a thousand launches may fill the queue
        of the GPU and then has to wait.
        """
        synchronize(self.device)
        start = time.perf_counter()
        kept = work()
        seconds = time.perf_counter() - start
        synchronize(self.device)
        del kept
        return seconds
