"""The processes of a run: one, or those that torchrun started on one or several machines."""
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, List, Optional, TypeVar

import torch
from timm.utils.distributed import init_distributed_device_so
from torch import distributed as dist

from iebn_zoo.util.errors import IEBNZooError, UsageError

T = TypeVar('T')


@dataclass(frozen=True)
class Processes:
    """This process and the others.

    Attributes:
        device: Device of this process.
        rank: Number of this process over all machines, from 0.
        world: Number of processes.
        local_rank: Number of this process on its machine, from 0.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes the run directory and prints."""
        return self.rank == 0

    @property
    def many(self) -> bool:
        return self.world > 1

    def gather(self, value: Any) -> List[Any]:
        """Return ``value`` of every process, by rank."""
        values = [value] * self.world
        if self.many:
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return ``value`` of the first process."""
        values = [value]
        if self.many:
            dist.broadcast_object_list(values, 0)
        return values[0]

    def on_first(self, work: Callable[[], T]) -> T:
        """Let the first process work; every process gets what it returns.

        Raises:
            IEBNZooError: ``work`` has raised it; every process does.
        """
        done: Any = None
        if self.first:
            try:
                done = work()
            except IEBNZooError as e:
                done = e
        done = self.broadcast(done)
        if isinstance(done, IEBNZooError):
            raise done
        return done

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes as a new tensor."""
        tensor = tensor.clone()
        if self.many:
            dist.all_reduce(tensor)
        return tensor


def leave_allocation() -> None:
    """Forget the size of a SLURM allocation in which this process was started alone.

    SLURM sets SLURM_NTASKS for everything in an allocation. Only ``srun`` starts that many processes, and sets
    SLURM_STEP_NUM_TASKS. timm reads only SLURM_NTASKS, and would wait for processes that nobody has started.
    """
    if 'WORLD_SIZE' not in os.environ and os.environ.get('SLURM_STEP_NUM_TASKS', '1') == '1':
        for name in ('SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID'):
            os.environ.pop(name, None)


def start(device: torch.device) -> Processes:
    """Join the process group that the environment of torchrun or SLURM describes, if there is one.

    Raises:
        UsageError: The environment is incomplete.
    """
    try:
        info = init_distributed_device_so(device.type)
    except (ValueError, RuntimeError) as e:
        raise UsageError(f'cannot join the other processes: {(str(e).splitlines() or [type(e).__name__])[0]}\n'
                         f'Start with torchrun, which sets RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR.') from e
    return Processes(device, *(int(info[k]) for k in ('global_rank', 'world_size', 'local_rank')))


class RankLog:
    """The log of a process other than the first: lines with the time in ``RUN/rank<N>.log``.

    Args:
        directory: Directory of the run.
        processes: This process; the first one writes no such file.
    """

    def __init__(self, directory: Path, processes: Processes) -> None:
        self.path: Optional[Path] = None if processes.first else directory / f'rank{processes.rank}.log'
        self.line(f'process {processes.rank} of {processes.world} on {processes.device}, pid {os.getpid()}')

    def line(self, text: str) -> None:
        """Append a line.

        Raises:
            IEBNZooError: The file cannot be written.
        """
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)  # each machine has its own disk
            with open(self.path, 'a', encoding='utf-8') as file:
                file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")
        except OSError as e:
            raise IEBNZooError(
                f'cannot write {self.path}: {e.strerror or e}.\n'
                f'Give --output a writable place on every machine.') from e
