"""Which device a command computes on."""
import torch
from timm.utils.distributed import is_distributed_env, world_info_from_env

from iebn_zoo.util.errors import UsageError

_ACCELERATORS = ('cuda', 'xpu', 'mps')  # in the order in which auto looks for them


def resolve_device(name: str) -> torch.device:
    """``auto`` is the accelerator where there is one; each of several processes of a machine has its own.

    Raises:
        UsageError: The device is unknown, or not there.
    """
    kind, _, index = name.partition(':')
    if kind == 'auto':
        kind = next((k for k in _ACCELERATORS if _available(k)), 'cpu')
    if kind not in (*_ACCELERATORS, 'cpu') or (index and not index.isdigit()):
        raise UsageError(f'unknown --device {name!r}.\nExpected auto, cpu, cuda, cuda:N, xpu, xpu:N or mps.')
    if kind == 'cpu':
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


def _available(kind: str) -> int:
    """How many devices of a kind torch has on this machine."""
    if kind == 'mps':
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind, None)  # a torch without it has no such module
    return module.device_count() if module is not None and module.is_available() else 0
