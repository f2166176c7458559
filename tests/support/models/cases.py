"""The networks that the interface is tested on, small enough to run: CIFAR and ImageNet nets."""
from typing import Any, Dict, List, NamedTuple

import timm
import torch
from torch import nn

import iebn_zoo  # noqa: F401  registers the models


class Case(NamedTuple):
    """A registered name, the arguments that make it small, and what its features look like."""

    name: str
    kwargs: Dict[str, Any]
    size: int
    reductions: List[int]

    @property
    def strides(self) -> List[int]:
        return [32, 16, 8] if self.size == 64 else [4, 2, 1]

    def create(self, **kwargs: Any) -> nn.Module:
        torch.manual_seed(0)
        model = timm.create_model(self.name, **{'num_classes': 5, **self.kwargs, **kwargs})
        return randomize(model)

    def input(self, batch: int = 2, chans: int = 3) -> torch.Tensor:
        return torch.randn(batch, chans, self.size, self.size, generator=torch.Generator().manual_seed(1))


def randomize(model: nn.Module) -> nn.Module:
    """Move norms and statistics off their initial values, so that a norm left out or doubled changes the result."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and value.dim() == 1 and not value.is_meta:
                noise = torch.rand(value.shape, generator=generator)
                value.add_(0.2 * noise if name.endswith(('running_var', 'weight')) else 0.2 * noise - 0.1)
    return model


def _small(net: str) -> Dict[str, Any]:
    kwargs = {'layers': (1, 2, 1)}
    if 'wrn' in net:
        kwargs['channels'] = (32, 48, 64)
    if 'resnext' in net:
        kwargs.update(channels=(16, 32, 64), stem_width=8)
    return kwargs


# random initialization of the full networks would take most of the time; test_interface runs them once
IMAGENET = [Case(name, {'layers': (1, 2, 1, 1), 'channels': (16, 32, 64, 128)}, 64, [2, 4, 8, 16, 32]) for name in (
    'iebn_resnet18', 'iebn_resnet50', 'iebn_resnext50_32x4d', 'iebn_resnet26t', 'iebn_resnetaa34d')]
# one network per block class: made small, another depth of the same blocks is the same network
_BLOCKS = ('resnet20', 'resnet164', 'preresnet164', 'wrn28_10', 'resnext29_8x32d')
IEBN_CIFAR, *_CONTROLS = ([Case(f'{norm}_{net}_cifar', _small(net), 16, [1, 1, 2, 4]) for net in _BLOCKS]
                          for norm in ('iebn', 'bn', 'se'))
CONTROLS = [case for cases in _CONTROLS for case in cases]
ALL = IMAGENET + IEBN_CIFAR + CONTROLS


def ids(case: Case) -> str:
    """For pytest.mark.parametrize."""
    return case.name
