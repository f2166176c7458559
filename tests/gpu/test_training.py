"""Training on the GPU: whole networks against float64, autocast, loss scaling, activation checkpointing."""
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.studies.benchmark.variants import make_model
from tests.support.gpu_device import CUDA, DEVICE, LAYOUTS, layouts, require_gpu
from tests.support.layers import randomized

require_gpu()

NETWORK = 'resnet20_cifar'
SIZE, BATCH = (32, 32) if CUDA else (16, 8)
# errors of the logits and of the gradients of each kind of parameter, relative to their norms. Depth multiplies the
# rounding of a dtype, and a sign that rounding changes in front of a ReLU lets another gradient through
TOLERANCE = {torch.float32: (1e-5, 1e-3), torch.float16: (5e-3, 0.25), torch.bfloat16: (3e-2, 0.5)}


def networks(seed=0):
    """IEBN with our kernels on the device, and the formula by autograd in float64 on the CPU: the same weights."""
    ours, naive = make_model('iebn', NETWORK), make_model('naive', NETWORK)
    generator = torch.Generator().manual_seed(seed)
    for name, value in ours.named_parameters():
        if 'gate_weight' in name:
            nn.init.normal_(value, std=0.5, generator=generator)
    naive.load_state_dict(ours.state_dict())
    return ours.to(DEVICE).train(), naive.double().train()


def images(batch=BATCH):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, 3, SIZE, SIZE, generator=generator), torch.arange(batch) % 100


def gradients(model):
    """By kind of parameter, because the gradients of the gates are small beside those of the convolutions."""
    kinds = {}
    for name, p in model.named_parameters():
        kind = name.rsplit('.', 1)[-1] if p.dim() == 1 else 'matrix'
        kinds.setdefault(kind, []).append(p.grad.detach().double().cpu().flatten())
    return {kind: torch.cat(values) for kind, values in kinds.items()}


def relative(actual, exact):
    if isinstance(exact, dict):
        assert actual.keys() == exact.keys()
        return max(relative(actual[kind], exact[kind]) for kind in exact)
    return ((actual.detach().double().cpu() - exact.detach()).norm() / exact.norm()).item()


@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
@layouts
def test_a_whole_network(dtype, layout):
    ours, naive = networks()
    ours = ours.to(memory_format=layout)
    x, labels = images()
    seen = []
    for norm in (m for m in ours.modules() if isinstance(m, IEBatchNorm2d)):
        norm.register_forward_hook(lambda module, args, y: seen.append((args[0].dtype, y.dtype)))
    with torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32):
        y = ours(x.to(DEVICE, memory_format=layout))
        loss = F.cross_entropy(y, labels.to(DEVICE))
    exact = naive(x.double())
    # a loss of hundreds keeps float16's gradients away from its smallest numbers
    (loss * 256).backward()
    (F.cross_entropy(exact, labels) * 256).backward()
    assert len(seen) > 10 and set(seen) == {(dtype, dtype)}
    of_logits, of_gradients = TOLERANCE[dtype]
    assert relative(y, exact) <= of_logits
    assert relative(gradients(ours), gradients(naive)) <= of_gradients
    for name, value in ours.state_dict().items():
        if name.endswith('running_var'):
            assert relative(value, naive.state_dict()[name]) <= max(of_logits, 1e-4), name
        elif name.endswith('num_batches_tracked'):
            assert value == 1


def test_loss_scaling():
    """An overflow leaves the weights alone and lowers the scale; a step that fits has the gradient of float64."""
    ours, naive = networks()
    x, labels = images()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=2.0 ** 60)
    before = copy.deepcopy(ours.state_dict())

    def step():
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.float16):
            loss = F.cross_entropy(ours(x.to(DEVICE)), labels.to(DEVICE))
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        found = gradients(ours)
        scaler.step(optimizer)
        scaler.update()
        return found

    step()
    assert scaler.get_scale() == 2.0 ** 59
    assert all(torch.equal(p, before[name]) for name, p in ours.named_parameters())
    assert all(v.isfinite().all() for v in ours.state_dict().values()), 'statistics too: the forward did not overflow'
    scaler.load_state_dict({**scaler.state_dict(), 'scale': 256.0})
    found = step()
    F.cross_entropy(naive(x.double()), labels).backward()
    assert relative(found, gradients(naive)) <= TOLERANCE[torch.float16][1]
    assert not torch.equal(ours.conv1.weight, before['conv1.weight'])


@pytest.mark.parametrize('layer_class', [IEBatchNorm2d, IEBatchNormAct2d])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
def test_activation_checkpointing_of_a_layer(layer_class, dtype):
    x = torch.randn(6, 7, 5, 9, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    results = []
    for reentrant in (None, False, True):
        layer = randomized(layer_class(7)).to(DEVICE)
        leaf = x.clone().requires_grad_()
        y = layer(leaf) if reentrant is None else checkpoint(layer, leaf, use_reentrant=reentrant)
        y.square().sum().backward()
        results.append((y, leaf.grad, *(p.grad for p in layer.parameters())))
        # the forward runs twice, and so do the statistics move, as those of nn.BatchNorm2d do
        bn = nn.BatchNorm2d(7).to(DEVICE)
        bn.load_state_dict({**bn.state_dict(), **randomized(layer_class(7)).bn.state_dict()})
        for _ in range(1 if reentrant is None else 2):
            bn(x.float())
        for name in ('running_mean', 'running_var'):
            torch.testing.assert_close(getattr(layer.bn, name), getattr(bn, name), rtol=1e-5, atol=1e-6)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_activation_checkpointing_of_a_network():
    x, labels = images(4)
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = make_model('iebn', 'resnet18').to(DEVICE).train()
        model.set_grad_checkpointing(checkpointing)
        F.cross_entropy(model(x.to(DEVICE)), labels.to(DEVICE)).backward()
        found.append(gradients(model))
    assert relative(found[1], found[0]) <= 1e-5


def test_evaluation_follows_training():
    """Running statistics that the GPU has gathered, in inference, against float64."""
    ours, naive = networks()
    x, _ = images()
    with torch.no_grad():
        for model, batch in ((ours, x.to(DEVICE)), (naive, x.double())):
            for _ in range(3):
                model(batch)
            model.eval()
    for memory_format in LAYOUTS.values():
        with torch.inference_mode():
            y = ours(x.to(DEVICE, memory_format=memory_format))
        assert relative(y, naive(x.double())) <= 1e-4
