"""convert_iebn_to_bn: the way back, for a network whose gates do not depend on their input."""
from typing import Dict, List, Tuple

import torch
from torch import Tensor, nn

from iebn_zoo.conversion.folding.base import name_base_models
from iebn_zoo.conversion.folding.obstacles import check_layer, check_model, check_ties
from iebn_zoo.conversion.folding.replace import replace_by_batch_norm
from iebn_zoo.conversion.report import ConversionReport, LayerReport
from iebn_zoo.conversion.walk import Path, dotted, find_modules
from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.util.errors import UsageError

_MAX_NAMED = 4


@torch.inference_mode(False)
def convert_iebn_to_bn(model: nn.Module) -> Tuple[nn.Module, ConversionReport]:
    """Replace the IEBN layers of a network by BatchNorm2d, exactly: the inverse of ``convert_bn_to_iebn``.

    Where gate_weight is 0 the gate is sigmoid(gate_bias) for every instance, and goes into the weight. Names of the
    state dict are those of the BN network: that of an ``iebn_resnet18`` loads into timm's ``resnet18``. An activation
    inside a layer returns to where it stood in that network, or stays in a timm ``BatchNormAct2d``. A block of your own
    that gives its layer a shortcut to add raises a TypeError when it is next run, because a BatchNorm takes none.

    A norm that had no bias has none again. One that had affine=False has no weight again, if the weight of its layer is
    still frozen and weight times gate is 1 to rounding; otherwise a weight holds their product. (A norm without bias
    whose weight is frozen at 1 cannot be told from it, and loses that weight.) A layer that was built with affine=False
    gets its gate as the weight and a frozen bias of 0.

    Args:
        model: Changed in place. Its weights are new parameters, so make the optimizer afterwards; bias and running
            statistics remain the same tensors, without gradients.

    Returns:
        ``model``, or the new norm where ``model`` itself is a layer; and a report of every IEBN layer.

    Raises:
        UsageError: ``model`` is compiled (see ``convert_bn_to_iebn``) or wrapped for parallel training, a gate depends
            on its input (gate_weight is not 0), there is no IEBN layer, or one cannot be replaced:
            its child is not a BatchNorm2d, it has hooks, or it shares its weight. ``model`` is then unchanged.
    """
    check_model(model)
    found = find_modules(model, lambda module: isinstance(module, IEBatchNorm2d))
    layers = {layer: paths for layer, paths in found.items() if isinstance(layer, IEBatchNorm2d)}
    if not layers:
        raise UsageError(f'this {type(model).__name__} has no IEBN layer.\nExpected a network of IEBatchNorm2d layers.')
    for layer, paths in layers.items():
        check_layer(_name(paths), layer, exact=True)
    check_ties(model)
    _check_constant(layers)
    gates = {dotted(paths[0]): _gate(layer) for layer, paths in layers.items()}
    model = replace_by_batch_norm(model, gates)
    for layer in layers:
        if layer.bias is not None:
            layer.bias.grad = None  # as that of the weight, which is a new one
    name_base_models(model)
    return model, ConversionReport(tuple(_entry(model, layer, paths, gates) for layer, paths in layers.items()))


def _name(paths: List[Path]) -> str:
    return dotted(paths[0]) or 'the model'


def _check_constant(layers: Dict[IEBatchNorm2d, List[Path]]) -> None:
    largest = {_name(paths): float(layer.gate_weight.detach().abs().max()) for layer, paths in layers.items()}
    gated = {name: value for name, value in largest.items() if value != 0}  # NaN is not 0 either
    if gated:
        worst = sorted(gated, key=lambda name: (gated[name] == gated[name], -gated[name]))
        named = ', '.join(f'{name} ({gated[name]:.3g})' for name in worst[:_MAX_NAMED])
        more = f' and {len(gated) - _MAX_NAMED} more' if len(gated) > _MAX_NAMED else ''
        raise UsageError(
            f'the gates of {len(gated)} of {len(layers)} IEBN layers depend on their input; largest |gate_weight|: '
            f'{named}{more}.\n'
            f'Expected gate_weight 0, for which a BatchNorm2d computes the same. '
            f'iebn_zoo.fold_gates(model, images) approximates the gates by their means.')


@torch.no_grad()
def _gate(layer: IEBatchNorm2d) -> Tensor:
    return torch.sigmoid(layer.gate_bias.cpu().double())


def _entry(model: nn.Module, layer: nn.Module, paths: List[Path], gates: Dict[str, Tensor]) -> LayerReport:
    name = dotted(paths[0])
    low, high = gates[name].min(), gates[name].max()
    note = f'gate {low:.4f}' if low == high else f'gates {low:.4f} to {high:.4f}'
    return LayerReport.of(paths, layer, model.get_submodule(name), note)
