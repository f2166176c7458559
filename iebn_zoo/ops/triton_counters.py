"""Counters of arrivals for the reductions of ``iebn_zoo.ops.triton_kernels``: zero before a launch and after it.

A kernel leaves its counters at zero, so a launch does not have to clear them. Two kernels that run at the same time
must never share a counter. Kernels of one stream run one after the other, so each stream has a buffer of its own, which
that stream clears once. A kernel captured in a CUDA graph runs whenever and on whatever stream the graph is replayed,
so it gets counters that nobody else gets, before or after: a graph never overlaps with itself. They come from a reserve
that was cleared outside a capture. When the reserve is used up, the graph clears counters of its own, by one more
launch.
"""
import threading
from typing import Dict, List, Tuple

import torch
from torch import Tensor

from iebn_zoo._compat import current_raw_stream

SMALLEST = 1 << 14  # counters of a stream: 64 KiB
RESERVE = 1 << 18  # for graphs, per GPU: 1 MiB, 4,000 launches of 64
ALIGNED = 32  # one cache line, and the divisor for which the kernels are compiled
_of_streams: Dict[Tuple[int, int], Tensor] = {}
_reserves: Dict[int, List[Tensor]] = {}
_lock = threading.Lock()


def zeros(device: torch.device, count: int) -> Tensor:
    """Return at least ``count`` int32 zeros. Only the kernel that the current stream gets next may use them."""
    if device.type == 'cuda':
        index = device.index
        if torch.cuda.is_current_stream_capturing():
            return _for_a_graph(device, count)
        key = index, current_raw_stream(index)
    else:  # Triton's interpreter
        key = -1, 0
    counters = _of_streams.get(key)
    if counters is None or counters.numel() < count:
        # a smaller one returns to the allocator, which gives it to nobody before this stream's kernels have ended
        counters = _of_streams[key] = _cleared(max(SMALLEST, 1 << (count - 1).bit_length()), device)
    return counters


def reserve(device: torch.device) -> None:
    """Clear what graphs will be given. Not during a capture; later kernels of any stream find it cleared."""
    with _lock:
        if device.index not in _reserves:
            _reserves[device.index] = [_cleared(RESERVE, device)]
            torch.cuda.synchronize(device)


def _for_a_graph(device: torch.device, count: int) -> Tensor:
    with _lock:
        rest = _reserves.get(device.index)
        if rest and rest[0].numel() >= count:
            given, rest[0] = rest[0].split([size := -(-count // ALIGNED) * ALIGNED, rest[0].numel() - size])
            return given
    return _cleared(count, device)


def _cleared(count: int, device: torch.device) -> Tensor:
    return torch.zeros(count, dtype=torch.int32, device=device)
