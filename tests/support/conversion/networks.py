"""Small networks of the families whose norms are converted, and what the tests measure on them."""
from dataclasses import replace
from typing import Any, Callable, NamedTuple

import timm
import torch
import torchvision
from torch import Tensor, nn

from tests.support.models.cases import randomize


class Network(NamedTuple):
    """How to build a family's network, the image size it runs on, and how many norms a conversion gates and leaves."""

    name: str
    build: Callable[[], nn.Module]
    size: int
    gated: int
    shortcuts: int

    def create(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """With statistics near those of its activations: otherwise the logits hardly depend on the images."""
        torch.manual_seed(0)
        model = self.build()
        torch.optim.swa_utils.update_bn([self.input(torch.float32, batch=16)], model)
        return randomize(model).to(dtype).eval()

    def input(self, dtype: torch.dtype = torch.float64, batch: int = 4) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(batch, 3, self.size, self.size, generator=generator, dtype=torch.float64).to(dtype)


def _timm(name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=5, **kwargs)


def _vgg() -> nn.Module:
    return timm.models.vgg.VGG(
        [8, 'M', 16, 'M', 32], num_classes=5, mlp_ratio=1 / 64, norm_layer=nn.BatchNorm2d)


def _repvgg() -> nn.Module:
    cfg = timm.models.byobnet.model_cfgs['repvgg_a0']
    blocks = tuple(replace(b, c=16 * (i + 1), d=min(b.d, 3)) for i, b in enumerate(cfg.blocks))
    return timm.models.byobnet.ByobNet(replace(cfg, blocks=blocks), num_classes=5)


def _torchvision_resnet() -> nn.Module:
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)


_CHANNELS = (16, 32, 64, 128)

NETWORKS = [
    Network('resnet', _timm('resnet26d', layers=(1, 1, 1, 1), channels=_CHANNELS), 48, 15, 3),
    Network('resnetv2', _timm('resnetv2_50d', layers=(1, 1, 1, 1), channels=_CHANNELS), 48, 15, 0),
    Network('regnet', _timm('regnetx_002'), 48, 40, 4),
    Network('efficientnet', _timm('test_efficientnet'), 48, 13, 0),
    Network('mobilenetv3', _timm('mobilenetv3_small_050'), 48, 34, 0),
    Network('densenet', _timm('densenet121', growth_rate=8, block_config=(2, 2, 2, 2)), 48, 21, 0),
    Network('vgg', _vgg, 28, 3, 0),
    Network('repvgg', _repvgg, 32, 20, 5),
    Network('torchvision', _torchvision_resnet, 48, 9, 3),
]


def relative_error(y: Tensor, expected: Tensor) -> float:
    """Largest |difference| over largest |expected|."""
    return float((y - expected).detach().abs().max() / expected.detach().abs().max())
