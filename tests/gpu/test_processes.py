"""DDP in a process of one GPU, and two GPUs in one process."""
import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.studies.benchmark.variants import make_model
from tests.support.gpu_device import CUDA, DEVICE, require_gpu
from tests.support.layers import randomized

require_gpu()


@pytest.fixture
def group(tmp_path):
    dist.init_process_group('nccl' if CUDA else 'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1,
                            device_id=DEVICE if CUDA else None)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize('static_graph', [False, True])
def test_ddp(group, static_graph):
    """A step of DDP over one process is a plain step."""
    size = 32 if CUDA else 8
    images = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    labels = (torch.arange(8) % 100).to(DEVICE)
    torch.manual_seed(0)
    plain = make_model('iebn', 'resnet20_cifar').to(DEVICE).train()
    wrapped = DistributedDataParallel(copy.deepcopy(plain), device_ids=[DEVICE.index] if CUDA else None,
                                      static_graph=static_graph)
    states = []
    for model in (plain, wrapped):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        states.append(getattr(model, 'module', model).state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.skipif(CUDA and torch.cuda.device_count() < 2, reason='needs two GPUs')
@pytest.mark.parametrize('layer_class', [IEBatchNorm2d, IEBatchNormAct2d])
def test_a_device_that_is_not_the_current_one(layer_class):
    results = []
    for device in ('cuda:0', 'cuda:1') if CUDA else ('cpu', 'cpu'):
        layer = randomized(layer_class(9)).to(device)
        x = torch.randn(5, 9, 7, 3, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
        y = layer(x)
        found = (y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]), *layer.state_dict().values())
        results.append([t.detach().cpu() for t in found])
        if CUDA:
            assert torch.cuda.current_device() == 0
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-6)
