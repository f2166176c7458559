"""What a network says of itself, measured for the card."""
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from iebn_zoo.layers import IEBatchNorm2d


@dataclass(frozen=True)
class NetworkFacts:
    """What the card says of a network, whether it was trained or converted.

    Attributes:
        arch: Registered name.
        model_args: Arguments that rebuild the network from ``arch``.
        data_config: Input settings with which the weights were trained.
        label_names: Names of the classes in order, or None.
        num_classes: Number of classes.
        is_iebn: The network has IEBatchNorm2d layers.
        is_ours: timm knows the name only once iebn_zoo is imported.
        parameters: Number of parameters.
        gates: Number of gated channels.
        gate_weight_frozen: The gates are the same for every image, because gate_weight was held at 0.
        macs: Multiply-accumulates of convolutions and matrix products for one image.
        feature_shapes: Shapes of the feature maps of one image, or None where the network offers no
            ``features_only=True``.
    """

    arch: str
    model_args: Dict[str, Any]
    data_config: Dict[str, Any]
    label_names: Optional[List[str]]
    num_classes: int
    is_iebn: bool
    is_ours: bool
    parameters: int
    gates: int
    gate_weight_frozen: bool
    macs: int
    feature_shapes: Optional[List[Tuple[int, ...]]]


def network_facts(
        model: nn.Module,
        arch: str,
        model_args: Dict[str, Any],
        data_config: Dict[str, Any],
        label_names: Optional[List[str]],
) -> NetworkFacts:
    """Measure ``model``; the other arguments are those of ``NetworkFacts``."""
    size = data_config['input_size']
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, *size))
    gated = [m for m in model.modules() if isinstance(m, IEBatchNorm2d)]
    return NetworkFacts(
        arch, model_args, data_config, label_names, num_classes=getattr(model, 'num_classes', 0), is_iebn=bool(gated),
        is_ours=timm.model_entrypoint(arch).__module__.startswith('iebn_zoo'),
        parameters=sum(p.numel() for p in model.parameters()),
        gates=sum(m.get_parameter('gate_bias').numel() for m in gated),
        gate_weight_frozen=bool(gated) and not any(m.gate_weight.requires_grad for m in gated),
        macs=counter.get_total_flops() // 2, feature_shapes=_feature_shapes(arch, model_args, size))


def _feature_shapes(arch: str, model_args: Dict[str, Any], size: List[int]) -> Optional[List[Tuple[int, ...]]]:
    try:
        model = timm.create_model(arch, features_only=True, **model_args).eval()
        with torch.inference_mode():
            return [tuple(f.shape) for f in model(torch.zeros(1, *size))]
    except Exception:  # each family of timm refuses in its own way
        return None
