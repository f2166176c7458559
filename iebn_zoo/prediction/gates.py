"""The gates that images open, per layer, image and channel."""
import itertools
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.ops.reference import gate, instance_mean
from iebn_zoo.prediction.predict import ImageLike, Predictor, Source, as_images, check_count, predictor_on
from iebn_zoo.util.csv_files import csv_text
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.results import table_kind

COLUMNS = ('image', 'layer', 'name', 'channels', 'mean', 'spread', 'least', 'largest', 'image_spread')
CSV = table_kind('a table of iebn-zoo gates', COLUMNS)
Gates = Dict[str, Tensor]


def image_gates(
        source: Source,
        images: Union[ImageLike, Iterable[ImageLike]],
        batch_size: int = 32,
        device: Union[str, torch.device, None] = None,
) -> Gates:
    """Return the gates that images open in each IEBN layer of a network.

        gates = iebn_zoo.image_gates('output/run', ['cat.jpg', 'dog.jpg'])
        gates['layer1.0.bn1'].mean(1)    # the mean gate of each image in this layer

    Args:
        source: See ``iebn_zoo.predict``.
        images: See ``iebn_zoo.predict``.
        batch_size: Number of images that the network takes at once.
        device: See ``iebn_zoo.predict``.

    Returns:
        The gates (images, channels), float32 between 0 and 1, of each layer by its name, in the order in which the
        layers run.

    Raises:
        UsageError: The source names nothing with weights, the network has no IEBN layer, there are no images, one of
            them is no image, or ``batch_size`` is no whole number of at least 1.
        IEBNZooError: The weights cannot be used, an image cannot be read, or a layer does not run exactly once.
    """
    check_count('batch_size', batch_size)
    many = as_images(images)
    predictor = predictor_on(source, device)
    opened = (predictor.open(image) for image in many)
    found: List[Gates] = []
    while batch := list(itertools.islice(opened, batch_size)):
        found.append(gates_of(predictor, batch)[0])
    if not found:
        raise UsageError('no images given.\nExpected at least one.')
    return {name: torch.cat([gates[name] for gates in found]) for name in found[0]}


def depend_on_images(model: nn.Module) -> bool:
    """Say whether an IEBN layer of ``model`` has a ``gate_weight`` other than 0, without which gates are constants."""
    return any(bool(layer.get_parameter('gate_weight').any()) for layer in iebn_layers(model).values())


def iebn_layers(model: nn.Module) -> Dict[str, IEBatchNorm2d]:
    """Return the IEBN layers of ``model`` by their names."""
    return {name: m for name, m in model.named_modules() if isinstance(m, IEBatchNorm2d)}


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
    layers = iebn_layers(predictor.model)
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
    ``image_spread`` is that over images, as a mean over the channels, and the same for all images of a layer; it is
    empty where there is one image.
    """
    rows = []
    several = len(names) > 1
    for i, image in enumerate(names):
        for number, (name, values) in enumerate(gates.items()):
            row = values[i]
            numbers = (row.mean(), row.std(correction=0), row.min(), row.max())
            over_images = f'{float(image_spread(values)):.6g}' if several else ''
            rows.append((image, number, name, len(row), *(f'{float(v):.6g}' for v in numbers), over_images))
    return csv_text(COLUMNS, rows)


def image_spread(gates: Tensor) -> Tensor:
    """Return the standard deviation over images of the gates (B, C) of a layer, as a mean over the channels."""
    return torch.std(gates, dim=0, correction=0).mean()


def gates_in_words(gates: Gates, trained: bool) -> str:
    """Say in a sentence what stands out in the gates of images.

    Args:
        gates: See ``gates_of``.
        trained: What ``depend_on_images`` says of the network.
    """
    if not trained:
        return 'each gate_weight is 0, so the gates are the same for every image'
    if len(next(iter(gates.values()))) > 1:
        moved = max(gates, key=lambda name: float(image_spread(gates[name])))
        return (f'the gates differ most between images in {moved} (standard deviation '
                f'{float(image_spread(gates[moved])):.3g}, mean over its channels)')
    medians = sorted((float(values.median()), name) for name, values in gates.items())
    (low, closed), (high, opened) = medians[0], medians[-1]
    return (f'the gate of the median channel is lowest in the layer {closed} ({low:.2f}) and highest in {opened} '
            f'({high:.2f})')
