"""Peak memory of a step."""
import os
from typing import Callable, Iterable

import torch
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def resident_bytes(tensors: Iterable[Tensor]) -> int:
    """Sum the sizes of the storages behind ``tensors``, each counted once."""
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return sum(storages.values())


def peak_growth(run: Callable[[], None], device: torch.device) -> int:
    """Measure the most bytes that torch's allocator of ``device`` holds during ``run()`` above what it held before.

    On the CPU that is every tensor, scratch tensors of ops included, without the memory of oneDNN. Memory that ``run``
    releases without having allocated it does not count, because its size is unknown.
    """
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # otherwise the profiler's library writes to stderr
    os.environ.setdefault('KINETO_LOG_LEVEL', '6')
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    # the public event list gives an op its sum alone; the records behind it have each allocation and each release
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    records = [e for e in profiler.profiler.kineto_results.events()
               if e.name() == '[memory]' and e.device_type() == DeviceType.CPU]
    held = peak = 0
    for record in sorted(records, key=lambda e: e.start_ns()):
        held += record.nbytes()  # pyright: ignore[reportAttributeAccessIssue]  torch's stub lacks it
        peak = max(peak, held)
    return peak
