"""The two networks that timm's and torch's tools are run on: small, calibrated, with gates that no tool may drop."""
import copy
from functools import cache

import timm
import torch
from torch import nn

import iebn_zoo  # noqa: F401

CIFAR, IMAGENET = 'iebn_resnet20_cifar', 'iebn_resnet18'
NETWORKS = (CIFAR, IMAGENET)
SIZE = 32
CLASSES = 10
KWARGS = {CIFAR: {'layers': (1, 1, 1)}, IMAGENET: {'layers': (1, 1, 1, 1), 'channels': (16, 32, 64, 128)}}


def create(name: str, **kwargs) -> nn.Module:
    """A new network, initialized as always."""
    return timm.create_model(name, num_classes=CLASSES, **{**KWARGS[name], **kwargs})


@cache
def _calibrated(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = create(name)
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, 'gate_weight'):
                module.weight.uniform_(1, 3)  # the gates are a half or less
                module.bias.uniform_(-0.3, 0.3)
                module.gate_weight.uniform_(-4, 4)
                module.gate_bias.uniform_(-1.5, 0.5)
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        model(images(32))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
    return model


def network(name: str) -> nn.Module:
    """A copy of the calibrated network, in eval mode: random parameters, statistics of its own activations."""
    return copy.deepcopy(_calibrated(name)).eval()


def images(count: int, seed: int = 0, size: int = SIZE) -> torch.Tensor:
    """(count, 3, size, size): noise on a random color each, so that the instances differ in their means."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, 3, size, size, generator=generator)
            + torch.randn(count, 3, 1, 1, generator=generator))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest |a - b| relative to the largest |b|; infinite where a value is not finite."""
    assert a.shape == b.shape
    value = ((a - b).abs().max() / b.abs().max()).item()
    return value if value == value else float('inf')


def constant_gates(model: nn.Module) -> nn.Module:
    """A copy whose gates no longer look at the instance: what a tool leaves that loses gate_weight."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith('gate_weight'):
                parameter.zero_()
    return model


def no_gates(model: nn.Module) -> nn.Module:
    """A copy with every gate 1: what a tool leaves that takes the layer for a BatchNorm2d."""
    model = constant_gates(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith('gate_bias'):
                parameter.fill_(100.0)
    return model
