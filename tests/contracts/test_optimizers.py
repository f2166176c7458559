"""timm's parameter groups: gates are not decayed, and take their layer's share of the learning rate."""
import pytest
import timm.optim
import timm.scheduler
import torch
from torch import nn

from iebn_zoo import IEBatchNorm2d
from tests.support.contracts.networks import CIFAR, NETWORKS, create

DECAY = 0.05


def test_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), IEBatchNorm2d(4))
    groups = timm.optim.param_groups_weight_decay(model, weight_decay=DECAY)
    assert {len(g['params']): g['weight_decay'] for g in groups} == {4: 0, 1: DECAY}


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('kwargs', [{}, {'layer_decay': 0.5}], ids=['plain', 'layer_decay'])
def test_gates_are_not_decayed(name, kwargs):
    model = create(name, device='meta')
    optimizer = timm.optim.create_optimizer_v2(model, opt='sgd', lr=0.1, weight_decay=DECAY, **kwargs)
    decay = {id(p): g['weight_decay'] for g in optimizer.param_groups for p in g['params']}
    names = dict(model.named_parameters())
    assert len(decay) == len(names)
    assert {k for k, p in names.items() if decay[id(p)]} == {k for k, p in names.items() if p.dim() > 1}
    assert sum('gate_' in k for k, p in names.items() if not decay[id(p)]) == 2 * sum(
        isinstance(m, IEBatchNorm2d) for m in model.modules())


@pytest.mark.parametrize('name', NETWORKS)
def test_layer_decay_scales_a_gate_as_its_block(name):
    model = create(name, device='meta')
    groups = timm.optim.param_groups_layer_decay(model, weight_decay=DECAY, layer_decay=0.5)
    scale = {id(p): g['lr_scale'] for g in groups for p in g['params']}
    blocks = sum(len(getattr(model, f'layer{i}')) for i in range(1, 5 if name != CIFAR else 4))
    assert scale[id(model.bn1.gate_weight)] == scale[id(model.conv1.weight)] == pytest.approx(0.5 ** (blocks + 1))
    seen = set()
    for key, module in model.named_modules():
        if isinstance(module, IEBatchNorm2d) and key.startswith('layer'):
            conv = model.get_parameter(key.replace('bn', 'conv') + '.weight')
            assert {scale[id(p)] for p in module.parameters()} == {scale[id(conv)]}, key
            seen.add(scale[id(conv)])
    assert sorted(seen, reverse=True) == pytest.approx([0.5 ** i for i in range(1, blocks + 1)])
    assert scale[id(model.fc.weight)] == 1


def test_lr_scale_reaches_the_step():
    """With timm's SGD, a gate in the stem moves less than one in the last block by just that factor."""
    model = create(CIFAR)
    optimizer = timm.optim.create_optimizer_v2(
        model, opt='momentum', lr=1.0, momentum=0.0, weight_decay=DECAY, layer_decay=0.5)
    scheduler = timm.scheduler.StepLRScheduler(optimizer, decay_t=10)
    scheduler.step(0)
    moved = {}
    gates = {k: p for k, p in model.named_parameters() if k.endswith('gate_bias')}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for key, parameter in gates.items():
        moved[key] = (-1.0 - parameter.detach()).unique().item()
    assert moved['bn1.gate_bias'] == pytest.approx(0.5 ** 4)
    assert moved['layer3.0.bn2.gate_bias'] == pytest.approx(0.5)
