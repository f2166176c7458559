"""What the gates of a network do on images: mean and variance over instances, for each layer and channel."""
from functools import partial
from typing import Any, Dict, Mapping, Tuple

import torch
from torch import Tensor, nn

from iebn_zoo.conversion.folding.inference import Images, batches, evaluating, predict
from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.ops.reference import gate, instance_mean
from iebn_zoo.util.errors import IEBNZooError, UsageError


class GateMoments:
    """Mean and variance of a layer's gates over instances, (C,) in float64, whatever the sizes of the batches.

    Each batch is merged with Chan, Golub and LeVeque's update (1979): it does not cancel where the gates hardly vary.

    Attributes:
        count: Instances seen; one that passes through the layer twice counts twice.
        mean: (C,).
        takes_residual: The layer has been called with a shortcut to add.
    """

    def __init__(self, layer: IEBatchNorm2d) -> None:
        # on the CPU, since not every device has float64
        self._gate_weight = layer.gate_weight.detach().cpu().double()
        self._gate_bias = layer.gate_bias.detach().cpu().double()
        self._squares = torch.zeros_like(self._gate_bias)
        self.mean = torch.zeros_like(self._gate_bias)
        self.count = 0
        self.takes_residual = False

    def update(self, x: Tensor) -> None:
        """Take in the gates of one input (B, C, H, W) of the layer."""
        gates = gate(instance_mean(x).detach().cpu().double(), self._gate_weight, self._gate_bias)
        mean = gates.mean(0)
        delta = mean - self.mean
        count = self.count + len(gates)
        self._squares += (gates - mean).square().sum(0) + delta.square() * (self.count * len(gates) / count)
        self.mean += delta * (len(gates) / count)
        self.count = count

    @property
    def variance(self) -> Tensor:
        """(C,), over the instances, divided by their number."""
        return self._squares / self.count


def collect_gates(model: nn.Module, images: Images) -> Tuple[Dict[str, GateMoments], int]:
    """Run ``model`` over ``images`` and look at the input of each IEBN layer. The model does not change.

    Args:
        model: With IEBN layers.
        images: See ``batches``.

    Returns:
        The moments of each layer by its name in ``named_modules()``, and the number of images.

    Raises:
        UsageError: There is no IEBN layer, or the images do not fit.
        IEBNZooError: A layer has not been run, or a gate is not finite.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, IEBatchNorm2d)}
    if not layers:
        raise UsageError(
            f'{type(model).__name__} has no IEBN layer, so there is no gate to fold.\n'
            f'Give a model with IEBatchNorm2d layers, as it was before torch.jit or torch.compile.')
    moments = {name: GateMoments(layer) for name, layer in layers.items()}
    hooks = [layer.register_forward_pre_hook(partial(_observe, moments[name]), with_kwargs=True)
             for name, layer in layers.items()]
    count = 0
    try:
        with evaluating(model):
            for batch in batches(images, 'images'):
                predict(model, batch)
                count += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
    _check(moments)
    return moments, count


def _observe(moments: GateMoments, layer: nn.Module, args: Tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    moments.update(args[0] if args else kwargs['x'])
    moments.takes_residual |= (args[1] if len(args) > 1 else kwargs.get('residual')) is not None


def _check(moments: Mapping[str, GateMoments]) -> None:
    for name, layer in moments.items():
        if not layer.count:
            raise IEBNZooError(
                f'the IEBN layer {name!r} was not run on the images, so its gates are unknown.\n'
                f'Remove the part of the model that does not run in eval mode, or give the model before torch.compile.')
        if not layer.mean.isfinite().all():
            raise IEBNZooError(
                f'the gates of the IEBN layer {name!r} are not finite on these images.\n'
                f'Expected values from 0 to 1: look for NaN in the images and in the weights of the model.')
