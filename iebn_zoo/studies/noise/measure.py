"""The batch-noise measure: how much the other images of a batch change the output of a norm for one image.

h[i,r] (C, H, W) is the output of a norm, after scale, shift and gate and before activation and shortcut, for probe
image i in batch r of R; the batches differ only in the other images. With means over channels and positions,

    batch_variance    = mean_i  Var_r h[i,r]                noise: the same image in other batches
    instance_variance = Var_i  mean_r h[i,r]                signal: other images
    batch_noise       = batch_variance / instance_variance

Both variances are unbiased. The ratio does not change with a norm's scale, so BN and IEBN compare, although a gate of
0.27 alone would shrink a plain variance. The definition is ours; the paper shows the noise by accuracy under attack.

The network runs as it is trained where normalization is concerned (statistics of the batch, an attack by
``add_norm_noise`` included) and otherwise as in evaluation: no dropout and no dropped paths, which would be noise of
another kind. The measure reads each map on a grid of at most 8 x 8 positions.
"""
import math
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, ContextManager, Dict, Iterable, Iterator, List, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.util.errors import UsageError

_GRID = 8


@dataclass(frozen=True)
class LayerNoise:
    """The measure of one layer.

    Attributes:
        layer: Name in ``named_modules()``.
        channels: C.
        batch_variance: Of an image's output over batches.
        instance_variance: Of the output over images.
    """

    layer: str
    channels: int
    batch_variance: float
    instance_variance: float

    @property
    def batch_noise(self) -> float:
        """The ratio. It is NaN if the output is the same for every image, as with a weight that is still 0."""
        return self.batch_variance / self.instance_variance if self.instance_variance > 0 else float('nan')


def mean_batch_noise(layers: Sequence[LayerNoise]) -> float:
    """Return the mean of the ratios over the layers that have one; NaN if no layer has one."""
    ratios = [layer.batch_noise for layer in layers if math.isfinite(layer.batch_noise)]
    return sum(ratios) / len(ratios) if ratios else float('nan')


class _Moments:
    # Welford's update per probe: digits survive where the batches hardly differ
    def __init__(self, probes: int, like: Tensor) -> None:
        self.count = like.new_zeros(probes)
        self.mean = like.new_zeros(probes, *like.shape[1:])
        self.squares = torch.zeros_like(self.mean)

    def update(self, ids: Tensor, values: Tensor) -> None:
        self.count[ids] += 1
        delta = values - self.mean[ids]
        self.mean[ids] += delta / self.count[ids].view(-1, 1, 1, 1)
        self.squares[ids] += delta * (values - self.mean[ids])

    def result(self, layer: str) -> LayerNoise:
        if self.count.min() < 2:
            raise UsageError('the batch noise needs every probe image in at least two batches.\nUse more rounds.')
        within = (self.squares / (self.count - 1).view(-1, 1, 1, 1)).double().mean()
        return LayerNoise(layer, self.mean.size(1), float(within), float(self.mean.double().var(0).mean()))


def norm_layers(model: nn.Module) -> Dict[str, nn.Module]:
    """Return the batch normalizations of a network by name. An IEBN layer counts, its child does not."""
    owned = {id(m.bn) for m in model.modules() if isinstance(m, IEBatchNorm2d)}
    return {name: m for name, m in model.named_modules()
            if isinstance(m, (IEBatchNorm2d, _NormBase)) and id(m) not in owned}


@torch.no_grad()
def measure_batch_noise(
        model: nn.Module,
        batches: Iterable[Tuple[Tensor, Tensor]],
        probes: int,
        context: Callable[[], ContextManager[Any]] = nullcontext,
) -> List[LayerNoise]:
    """Measure each norm of ``model``, which is left as it was: weights, running statistics, modes and hooks.

    Args:
        model: With BatchNorm or IEBN layers.
        batches: Of images (B, C, H, W) on the model's device, and numbers (n,) in [0, probes) of the probe images,
            which are the first n. Each number is in at least two batches, and at most once in a batch. See
            ``ProbeBatches``.
        probes: Their number N, at least 2.
        context: Makes the context of each forward pass, such as autocast.

    Returns:
        One entry per layer that was run, in the order of the network's modules. A layer that runs more than once in a
        pass is measured at its last run.

    Raises:
        UsageError: The model has no such layer, or a probe is in one batch only.
    """
    layers = norm_layers(model)
    if not layers:
        raise UsageError(f'{type(model).__name__} has no batch normalization, so it has no batch noise.')
    seen: Dict[str, Tensor] = {}
    moments: Dict[str, _Moments] = {}
    with _normalizing_by_batch(model), _watching(layers, seen):
        for images, ids in batches:
            with context():
                model(images)
            for name, output in seen.items():
                values = _grid(output[:len(ids)]).float()
                moments.setdefault(name, _Moments(probes, values)).update(ids, values)
            seen.clear()
    return [moments[name].result(name) for name in layers if name in moments]


def _grid(x: Tensor) -> Tensor:
    return x[:, :, ::-(-x.size(2) // _GRID), ::-(-x.size(3) // _GRID)]


@contextmanager
def _watching(layers: Dict[str, nn.Module], seen: Dict[str, Tensor]) -> Iterator[None]:
    hooks = []
    try:
        for name, layer in layers.items():
            drop = getattr(layer, 'drop', None)
            if hasattr(layer, 'act') and isinstance(drop, nn.Module):  # its output before shortcut and ReLU
                hooks.append(drop.register_forward_pre_hook(partial(_keep_input, name, seen)))
            else:
                hooks.append(layer.register_forward_hook(partial(_keep_output, name, seen)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


# the hooks clone, because an activation behind the norm may work in place
def _keep_input(name: str, seen: Dict[str, Tensor], module: nn.Module, inputs: Tuple[Tensor, ...]) -> None:
    seen[name] = inputs[0].clone()


def _keep_output(
        name: str, seen: Dict[str, Tensor], module: nn.Module, inputs: Tuple[Tensor, ...], output: Tensor,
) -> None:
    seen[name] = output.clone()


@contextmanager
def _normalizing_by_batch(model: nn.Module) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    norms = [module for module in model.modules() if isinstance(module, _NormBase)]
    buffers = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    model.eval()
    for norm in norms:
        norm.training = True  # not train(), which would reach a drop layer inside
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
        for buffer, value in buffers:
            buffer.copy_(value)
