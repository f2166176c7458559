"""Shared by the layer tests."""
import math

import torch
from torch import nn

SIGMOID_INIT = 1 / (1 + math.e)  # sigmoid(-1), the gate of a new layer


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give parameters and statistics values that show when one of them is lost or moved."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                noise = torch.rand(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
                value.copy_(noise + 0.5 if name.endswith('running_var') else 2 * noise - 0.7)
    return module
