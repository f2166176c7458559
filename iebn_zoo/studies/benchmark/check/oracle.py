"""The check before the timing: our layers against the formula in float64.

One value out of tolerance ends the benchmark, because the time of a wrong operator means nothing.
"""
import itertools
from typing import Dict, Iterator, Sequence, Tuple

import torch
from torch import Tensor

from iebn_zoo.layers import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.ops import reference
from iebn_zoo.studies.benchmark.check.tolerance import check_close, undecided
from iebn_zoo.studies.benchmark.settings import Setting

# class, and whether it gets a residual, as the last norm of a block does
LAYERS = {
    'IEBatchNorm2d': (IEBatchNorm2d, False),
    'IEBatchNormAct2d': (IEBatchNormAct2d, False),
    'IEBatchNormAct2d with residual': (IEBatchNormAct2d, True),
}
PARAMETERS = ('weight', 'bias', 'gate_weight', 'gate_bias')
STATISTICS = ('running_mean', 'running_var')
# odd sizes on both sides of the sizes at which implementations change their ways: single values, short and long rows,
# few and many channels, and more elements than one piece of work has. (No shape has two values per channel: any
# two normalize to 1 and -1, and their gradient is rounding error, in BatchNorm too)
SHAPES = ((3, 5, 7, 9), (9, 65, 1, 1), (5, 33, 14, 15), (2, 19, 17, 31), (2, 3, 131, 127), (9, 67, 31, 33))
COMPILED_SHAPES = SHAPES[2:3]  # each is a compilation


def check_operator(
        settings: Sequence[Setting], modes: Sequence[str], device: torch.device,
        shapes: Sequence[Tuple[int, ...]] = SHAPES,
) -> int:
    """Compare output, gradients and statistics in every setting and mode that will be timed.

    Args:
        settings: Dtypes, layouts, compilers.
        modes: ``train`` (all quantities), ``infer`` (output; the statistics must stay).
        device: Where.
        shapes: Of the inputs, some of ``SHAPES``; under a compiler always ``COMPILED_SHAPES``.

    Returns:
        How many quantities were compared.

    Raises:
        IEBNZooError: A quantity is out of tolerance; the message has the first one and its error.
    """
    compared = 0
    for setting, mode, layer in itertools.product(settings, modes, LAYERS):
        for shape in shapes if setting.backend is None else COMPILED_SHAPES:
            torch.compiler.reset()
            for quantity, actual, exact in _quantities(layer, shape, setting, mode, device):
                case = f'{layer}, {setting.name}, {mode}, input {shape}'
                check_close(case, quantity, actual, exact, setting.torch_dtype)
                compared += 1
    return compared


def _quantities(
        layer_name: str, shape: Tuple[int, ...], setting: Setting, mode: str, device: torch.device,
) -> Iterator[Tuple[str, Tensor, Tensor]]:
    layer_class, with_residual = LAYERS[layer_name]
    generator = torch.Generator().manual_seed(sum(shape))
    x, dy, residual = (
        torch.randn(shape, generator=generator).add(mean).to(
            device, setting.torch_dtype, memory_format=setting.memory_format) for mean in (0.3, 0.0, 0.0))
    inputs = {'x': x, 'residual': residual} if with_residual else {'x': x}
    layer = _with_random_values(layer_class(shape[1]), generator).to(device).train(mode == 'train')
    exact = _Exact(layer, inputs)
    if layer_class is IEBatchNormAct2d:
        # ReLU's gradient jumps where the sign is a matter of rounding
        dy = dy.masked_fill(exact.y.detach().abs() < undecided(setting.torch_dtype), 0.0)
        exact.y = exact.y.relu()
    forward = setting.prepare(layer)
    if mode == 'train':
        for value in inputs.values():
            value.requires_grad_()
        with setting.autocast(device):
            y = forward(*inputs.values())
        yield 'y', y, exact.y
        leaves = [*inputs.values(), *(getattr(layer, name) for name in PARAMETERS)]
        gradients = torch.autograd.grad(y, leaves, dy)
        expected = torch.autograd.grad(exact.y, [*exact.inputs.values(), *exact.parameters.values()], dy.double())
        names = ('dx', *['d_residual'] * with_residual, *(f'd_{name}' for name in PARAMETERS))
        yield from zip(names, gradients, expected, strict=True)
    else:
        with torch.inference_mode(), setting.autocast(device):
            yield 'y', forward(*inputs.values()), exact.y
    for name in STATISTICS:
        yield name, getattr(layer.bn, name), exact.statistics[name]


def _with_random_values(layer: IEBatchNorm2d, generator: torch.Generator) -> IEBatchNorm2d:
    mean, variance = layer.bn.running_mean, layer.bn.running_var
    assert mean is not None and variance is not None
    with torch.no_grad():
        for value in (*layer.parameters(), mean):
            value.copy_(torch.randn(value.shape, generator=generator))
        variance.uniform_(0.5, 2.0, generator=generator)
    return layer


class _Exact:
    """The formula in float64 with the values of ``layer``; the running statistics are those after the step."""

    def __init__(self, layer: IEBatchNorm2d, inputs: Dict[str, Tensor]) -> None:
        self.inputs = {name: value.double().requires_grad_() for name, value in inputs.items()}
        self.parameters: Dict[str, Tensor] = {
            name: getattr(layer, name).detach().double().requires_grad_() for name in PARAMETERS}
        self.statistics = {name: getattr(layer.bn, name).double() for name in STATISTICS}
        assert layer.bn.momentum is not None
        self.y = reference.ie_batch_norm(
            self.inputs['x'], **self.statistics, **self.parameters, training=layer.training,
            momentum=layer.bn.momentum, eps=layer.bn.eps)
        if 'residual' in inputs:
            self.y = self.y + self.inputs['residual']
