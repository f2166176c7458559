"""What two processes run: the networks under DDP, FSDP2 and SyncBatchNorm. The tests compare afterwards."""
from datetime import timedelta
from pathlib import Path
from typing import Callable, List

import timm.utils
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tests.support.contracts.networks import CIFAR, images, network

WORLD = 2
BATCH = 8


def launch(task: Callable[[int], dict], directory: Path) -> List[dict]:
    """Run ``task(rank)`` in WORLD processes; returns what each has returned."""
    mp.spawn(_process, (task, str(directory)), WORLD)
    return [torch.load(directory / f'{rank}.pt', weights_only=True) for rank in range(WORLD)]


def _process(rank: int, task: Callable[[int], dict], directory: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{directory}/store', rank=rank, world_size=WORLD,
                            timeout=timedelta(minutes=5))
    try:
        torch.save(task(rank), Path(directory) / f'{rank}.pt')
    finally:
        dist.destroy_process_group()


def batch(device: str = 'cpu') -> torch.Tensor:
    """The images of all processes together: each takes its own part."""
    return images(BATCH, 1).to(device)


def loss(y: torch.Tensor) -> torch.Tensor:
    """A sum over the batch that treats no class and no sign alike."""
    return (y * torch.linspace(-1, 1, y.size(1), device=y.device)).sum() + 0.1 * y.square().sum()


def step(model: nn.Module, x: torch.Tensor) -> dict:
    """Loss, parameters and buffers after one step of SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    value = loss(model(x)) / len(x)
    value.backward()
    optimizer.step()
    return {'loss': value.detach(), **{k: _whole(v) for k, v in model.state_dict().items()}}


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor.detach().clone().cpu()


def start(frozen: bool = True) -> nn.Module:
    """The network to train: with running statistics a step on parts of a batch is the step on all of it."""
    model = network(CIFAR).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(not frozen)
    return model


def every_tool(rank: int) -> dict:
    """All of it in one pair of processes, as starting them takes longer than the steps."""
    part = batch().chunk(WORLD)[rank]
    results = {'ddp': step(nn.parallel.DistributedDataParallel(start()), part)}
    results['fsdp'] = step(_sharded(start()), part)
    results['batch_statistics'] = step(_sharded(start(frozen=False)), batch())
    for reduce in (True, False):
        model = start(frozen=False)
        wrapped = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)  # from here on each has its own
        with torch.no_grad():
            wrapped(part)
        results[f'own_{reduce}'] = {k: v.clone() for k, v in model.state_dict().items()}
        timm.utils.distribute_bn(wrapped, WORLD, reduce=reduce)
        results[f'distributed_{reduce}'] = model.state_dict()
    return results


def _sharded(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh('cpu', (WORLD,))
    for stage in (model.layer1, model.layer2, model.layer3):
        fully_shard(stage, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def gated_network() -> nn.Module:
    """Without the shortcuts' plain norms: every statistic belongs to an IEBN layer."""
    model = network(CIFAR).train()
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d and child.affine:
                setattr(parent, name, nn.Identity())
    return model


def shared_step(model: nn.Module, part: torch.Tensor) -> dict:
    """Logits, the gradients of this process's parameters and images, and the buffers afterwards."""
    x = part.clone().requires_grad_()
    y = model(x)
    loss(y).backward()
    return {'logits': y.detach().cpu(), 'images': x.grad.cpu(),
            'gradients': {k: p.grad.cpu() for k, p in model.named_parameters()},
            'buffers': {k: b.cpu() for k, b in model.named_buffers()}}


def synchronized_on_a_gpu(rank: int) -> dict:
    """SyncBatchNorm itself, in two processes that share one GPU."""
    model = nn.SyncBatchNorm.convert_sync_batchnorm(gated_network().cuda())
    return shared_step(model, batch('cuda').chunk(WORLD)[rank])
