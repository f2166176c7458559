"""Mean and spread of the gates of an IEBN network per stage, as columns of summary.csv."""
import math
import re
from typing import Dict, List

import torch
from torch import nn

from iebn_zoo.conversion.folding.statistics import GateMoments, collect_gates


def gate_statistics(model: nn.Module, images: torch.Tensor) -> Dict[str, float]:
    """Measure mean and spread of the gates of each stage on one batch in eval mode. The model does not change.

    Stage k holds the IEBN layers within ``layer<k>``, ``stem`` those before the stages, ``head`` those behind them.
    Every channel counts the same, in a small layer and in a large one.

    Args:
        model: With IEBN layers.
        images: (B, C, H, W).

    Returns:
        For each stage ``gate_mean_<stage>``; ``gate_spread_<stage>``, the standard deviation over instances and
        channels; ``gate_instance_spread_<stage>``, that over the instances alone (root mean square over channels),
        which is 0 where the gates are the same for every image.

    Raises:
        UsageError: There is no IEBN layer, or the images do not fit.
        IEBNZooError: A layer has not been run, or a gate is not finite.
    """
    moments, _ = collect_gates(model, images)
    columns: Dict[str, float] = {}
    for stage, layers in _by_stage(moments).items():
        mean = torch.cat([layer.mean for layer in layers])
        within = float(torch.cat([layer.variance for layer in layers]).mean())
        columns[f'gate_mean_{stage}'] = float(mean.mean())
        columns[f'gate_spread_{stage}'] = math.sqrt(within + float(mean.var(correction=0)))
        columns[f'gate_instance_spread_{stage}'] = math.sqrt(within)
    return columns


def _by_stage(moments: Dict[str, GateMoments]) -> Dict[str, List[GateMoments]]:
    stages: Dict[str, List[GateMoments]] = {}
    outside = 'stem'
    for name, layer in moments.items():
        numbered = re.match(r'layer(\d+)\.', name)
        if numbered:
            outside = 'head'
        stages.setdefault(f'stage{numbered[1]}' if numbered else outside, []).append(layer)
    return stages
