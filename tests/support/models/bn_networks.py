"""timm's BN networks with random statistics, in the place of trained ones, and how far an IEBN network is from one."""
from typing import Any, Dict

import timm
import torch
from torch import nn

from tests.support.models.cases import randomize

# of float32 in the small networks below, all of which stay under 5.5e-7; rounding grows with the depth, in the BN
# network as in the IEBN one: test_full_depth measures it against float64
TOLERANCE = 1e-6
SMALL: Dict[str, Any] = {'layers': (1, 2, 1, 1), 'channels': (16, 32, 64, 128)}


def bn_network(name: str, seed: int = 0, **kwargs: Any) -> nn.Module:
    """timm's ``name``, in eval mode, whose norms all differ from their initial values."""
    torch.manual_seed(seed)
    return randomize(timm.create_model(name, **kwargs)).eval()


def images(size: int = 64, batch: int = 2, chans: int = 3) -> torch.Tensor:
    return torch.randn(batch, chans, size, size, generator=torch.Generator().manual_seed(1))


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a part of the largest expected value."""
    assert actual.shape == expected.shape and expected.abs().max() > 0
    return ((actual - expected).abs().max() / expected.abs().max()).item()
