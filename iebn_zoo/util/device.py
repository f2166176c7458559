"""Which device a command computes on, and how the memory of the CPU is handled there."""
import ctypes
import os
import sys
from typing import Callable, Optional

import torch
from timm.utils.distributed import is_distributed_env, world_info_from_env

from iebn_zoo.util.errors import UsageError

_ACCELERATORS = ('cuda', 'xpu', 'mps')  # in the order in which auto looks for them
# parameters of glibc's mallopt(3) and their values at the start of a process, in bytes
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _DEFAULT = -1, -3, 2 ** 17
_NEVER = -1
_LARGEST_BLOCKS = (2 ** 30, 2 ** 25)  # some versions of glibc take no more than 32 MiB
# by which a user chooses otherwise
ALLOCATOR_VARIABLES = ('MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_', 'GLIBC_TUNABLES')
_keeps = False  # whether this process, or the one that it is a fork of, was told to keep its memory


def resolve_device(name: str, keep_memory: bool = True) -> torch.device:
    """``auto`` is the accelerator where there is one; each of several processes of a machine has its own.

    Args:
        name: auto, cpu, cuda, cuda:N, xpu, xpu:N or mps.
        keep_memory: Where the device is the CPU, ``keep_freed_memory``: for good, in the process of the caller.

    Raises:
        UsageError: The device is unknown, or not there.
    """
    kind, _, index = name.partition(':')
    if kind == 'auto':
        kind = next((k for k in _ACCELERATORS if _available(k)), 'cpu')
    if kind not in (*_ACCELERATORS, 'cpu') or (index and not index.isdigit()):
        raise UsageError(f'unknown --device {name!r}.\nExpected auto, cpu, cuda, cuda:N, xpu, xpu:N or mps.')
    if kind == 'cpu':
        if keep_memory:
            keep_freed_memory()
        return torch.device('cpu')
    found = _available(kind)
    if kind == 'mps':  # one on every machine that has it, without a number
        if not found or index not in ('', '0'):
            raise UsageError(f'--device {name} is not there.\nUse --device auto.')
        return torch.device('mps')
    # SLURM says the number of a process by another name than torchrun
    local = world_info_from_env()[0] if is_distributed_env() else None
    if local is not None and found and local >= found:
        raise UsageError(f'process {local} of this machine has no GPU of its own: {found} found.\n'
                         f'Start at most one process per GPU, and let each of them see all GPUs of its machine.')
    number = int(index or 0) if local is None else local
    if number >= found:
        raise UsageError(f'--device {name} is not there ({found} GPUs found).\nUse --device auto.')
    device = torch.device(kind, number)
    torch.get_device_module(kind).set_device(device)
    return device


def keep_freed_memory() -> bool:
    """Let the C library keep the memory of freed tensors in this process for the next ones, until the process ends.

    glibc gives a large block back to the system as soon as it is free. A train step on the CPU then takes a page fault
    for each 4 KiB of its activations; scripts/README.md says what it gains to keep them.

    Returns:
        Whether glibc was told so. False under another C library or an allocator that LD_PRELOAD names, and where one of
        ``ALLOCATOR_VARIABLES`` says what the user wants.
    """
    mallopt = _mallopt()
    if mallopt is None or any(os.environ.get(name) for name in ALLOCATOR_VARIABLES):
        return False
    global _keeps
    # mallopt returns 1 where it takes the value
    _keeps = any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_BLOCKS) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
    return _keeps


def give_back_freed_memory() -> None:
    """Undo ``keep_freed_memory``, in a fork too: a loader that has decoded one large image need not stay as large."""
    global _keeps
    mallopt = _mallopt()
    if _keeps and mallopt is not None:
        _keeps = False
        mallopt(_MMAP_THRESHOLD, _DEFAULT)
        mallopt(_TRIM_THRESHOLD, _DEFAULT)


def _mallopt() -> Optional[Callable[[int, int], int]]:
    """Return the function of glibc, None where the allocator is another one."""
    if sys.platform != 'linux' or 'malloc' in os.environ.get('LD_PRELOAD', ''):  # jemalloc, tcmalloc, mimalloc
        return None
    try:
        return ctypes.CDLL(None).mallopt if os.confstr('CS_GNU_LIBC_VERSION') else None
    except (ValueError, OSError, AttributeError):
        return None


def _available(kind: str) -> int:
    """How many devices of a kind torch has on this machine."""
    if kind == 'mps':
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind, None)  # a torch without it has no such module
    return module.device_count() if module is not None and module.is_available() else 0
