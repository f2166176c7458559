"""The gates that images open, per layer, image and channel."""
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import torch
from torch import Tensor, nn

from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.ops.reference import gate, instance_mean
from iebn_zoo.prediction.predict import Predictor
from iebn_zoo.util.csv_files import csv_text
from iebn_zoo.util.errors import IEBNZooError, UsageError

COLUMNS = ('image', 'layer', 'name', 'channels', 'mean', 'spread', 'least', 'largest', 'image_spread')
Gates = Dict[str, Tensor]


def gates_of(predictor: Predictor, images: Sequence[Any]) -> Tuple[Gates, Tensor]:
    """Return sigmoid(gate_weight * mean_hw(x) + gate_bias) per IEBN layer and image (arXiv 1908.04008, section 3).

    Args:
        predictor: Predictor with a network that has IEBN layers.
        images: Images from ``predictor.open``.

    Returns:
        The gates (B, C) per layer, by its name, in the order in which the layers run; and the probabilities
        (B, classes).

    Raises:
        UsageError: The network has no IEBN layer.
        IEBNZooError: A layer runs more than once, or not at all.
    """
    layers = {name: m for name, m in predictor.model.named_modules() if isinstance(m, IEBatchNorm2d)}
    if not layers:
        raise UsageError(f'{type(predictor.model).__name__} has no IEBN layer, and so no gates.\n'
                         f'Give an IEBN network, such as iebn_resnet50.bn_a1_in1k.')
    seen: Dict[str, List[Tensor]] = {}

    def observe(name: str, layer: IEBatchNorm2d) -> Any:
        def hook(_: nn.Module, args: Tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            x = args[0] if args else kwargs['x']
            weight, bias = (layer.get_parameter(key).detach() for key in ('gate_weight', 'gate_bias'))
            gates = gate(instance_mean(x.detach()), weight, bias)
            seen.setdefault(name, []).append(gates.float().cpu())
        return hook

    hooks = [layer.register_forward_pre_hook(observe(name, layer), with_kwargs=True) for name, layer in layers.items()]
    try:
        probabilities = predictor.probabilities(list(images))
    finally:
        for handle in hooks:
            handle.remove()
    odd = next((name for name in layers if len(seen.get(name, ())) != 1), None)
    if odd is not None:
        raise IEBNZooError(f'the IEBN layer {odd!r} ran {len(seen.get(odd, ()))} times for one batch, expected once.\n'
                           f'Give a network that runs each layer once.')
    return {name: values[0] for name, values in seen.items()}, probabilities


def as_csv(gates: Gates, names: Sequence[str]) -> str:
    """Write a row of CSV per image and layer.

    ``layer`` counts from 0 in the order in which the layers run. ``spread`` is the standard deviation over channels.
    ``image_spread`` is that over images, as a mean over the channels, and the same for all images of a layer.
    """
    rows = []
    for i, image in enumerate(names):
        for number, (name, values) in enumerate(gates.items()):
            row = values[i]
            numbers = (row.mean(), row.std(correction=0), row.min(), row.max(), image_spread(values))
            rows.append((image, number, name, len(row), *(f'{float(v):.6g}' for v in numbers)))
    return csv_text(COLUMNS, rows)


def image_spread(gates: Tensor) -> Tensor:
    """Return the standard deviation over images of the gates (B, C) of a layer, as a mean over the channels."""
    return torch.std(gates, dim=0, correction=0).mean()
