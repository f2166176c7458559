"""Networks whose gates differ from instance to instance, and images that make them."""
from typing import Any

import timm
import torch
from torch import Tensor, nn

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from tests.support.layers import randomized


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A plain and a fused IEBN layer between convolutions, 3 channels to 5 logits."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), IEBatchNorm2d(6, eps=1e-3), nn.ReLU(inplace=True),
        nn.Conv2d(6, 4, 3), IEBatchNormAct2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    return randomized(model.to(dtype)).eval()


def zoo_model(name: str = 'iebn_resnet20_cifar', **kwargs: Any) -> nn.Module:
    """A registered network, one block a stage, with gates that react to the image."""
    torch.manual_seed(0)
    kwargs = dict(dict(num_classes=5, layers=(1, 1, 1) if name.endswith('_cifar') else (1, 1, 1, 1)), **kwargs)
    return react(timm.create_model(name, **kwargs)).eval()


def react(model: nn.Module) -> nn.Module:
    """Set norms and gates so that the gates spread over instances and over channels."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (IEBatchNorm2d, nn.BatchNorm2d)):
                for name, value in module.named_parameters(recurse=False):
                    noise = torch.rand(value.shape, generator=generator)
                    value.copy_(4 * noise - 2 if name.startswith('gate') else noise + 0.5 * (name == 'weight'))
    return model


def images(batch: int, size: int = 12, seed: int = 2) -> Tensor:
    """(batch, 3, size, size), float32, of different brightness."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(batch, 3, 1, 1, generator=generator)
    return level + torch.randn(batch, 3, size, size, generator=generator)
