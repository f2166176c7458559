"""The three conversions of a network with weights: BN to IEBN, back, and the fold of trained gates."""
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from iebn_zoo.conversion import ConversionReport, convert_bn_to_iebn, convert_iebn_to_bn
from iebn_zoo.conversion.folding import FoldReport, fold_gates
from iebn_zoo.conversion.folding.base import base_architecture, base_args
from iebn_zoo.conversion.folding.inference import Images
from iebn_zoo.conversion.naming import iebn_architecture, iebn_args
from iebn_zoo.hub.package.directory import golden_input
from iebn_zoo.hub.package.golden import TOLERANCE
from iebn_zoo.hub.package.source import Source
from iebn_zoo.util.errors import IEBNZooError, UsageError, first_line
from iebn_zoo.weights.create import create_model
from iebn_zoo.weights.fit import load_weights

if TYPE_CHECKING:  # it is made of a conversion
    from iebn_zoo.hub.convert.tune import Tuning

BN_TO_IEBN, IEBN_TO_BN, FOLD = 'bn_to_iebn', 'iebn_to_bn', 'fold'


@dataclass(frozen=True)
class Conversion:
    """A converted network.

    Attributes:
        kind: BN_TO_IEBN, IEBN_TO_BN or FOLD.
        arch: Registered name.
        model_args: Arguments that rebuild ``model`` from ``arch``.
        model: On the CPU, in eval mode.
        figures: What was done and measured, as JSON values.
        report: What was done to each layer; printed, it is a table.
        tuning: The fine-tuning behind a fold, or None.
    """

    kind: str
    arch: str
    model_args: Dict[str, Any]
    model: nn.Module
    figures: Dict[str, Any]
    report: Union[ConversionReport, FoldReport]
    tuning: Optional['Tuning'] = None


def to_iebn(source: Source, gate_shortcuts: bool = False) -> Conversion:
    """Convert a BN network to the IEBN network that computes the same.

    Args:
        source: The network; its model is changed in place.
        gate_shortcuts: Gate the norms of the shortcuts too.

    Raises:
        UsageError: It has gates already, has no BatchNorm2d, or has no registered IEBN variant.
        IEBNZooError: The result computes something else.
    """
    if source.is_iebn:
        raise UsageError(f'{source.shown} is an IEBN network already: {source.arch}.\n'
                         f'Use --fold or --to-bn to make a BN network of it.')
    if not any(isinstance(m, nn.BatchNorm2d) for m in source.model.modules()):
        raise UsageError(f'{source.arch} has no BatchNorm2d, so there is nothing to convert.\n'
                         f'Expected a network with BatchNorm2d, such as resnet50.')
    arch = iebn_architecture(source.arch)
    if arch is None:
        raise UsageError(
            f'{source.arch} has no registered IEBN variant, so no config.json can describe the converted network.\n'
            f"timm.list_models('iebn_*') lists the variants.\n"
            f'In Python any network can be converted: model, report = iebn_zoo.convert_bn_to_iebn(model).')
    expected = _golden_logits(source.model, source)
    converted, report = convert_bn_to_iebn(source.model, gate_shortcuts=gate_shortcuts)
    model_args = iebn_args(source.model_args, gate_shortcuts)
    return _exact(BN_TO_IEBN, source, arch, model_args, converted, report, expected)


def to_bn(source: Source) -> Conversion:
    """Convert an IEBN network with constant gates to the BN network that computes the same.

    Args:
        source: The network; its model is changed in place.

    Raises:
        UsageError: It has no IEBN layer, or its gates depend on the input.
        IEBNZooError: The result computes something else.
    """
    arch = _bn_architecture(source, 'convert')
    expected = _golden_logits(source.model, source)
    converted, report = convert_iebn_to_bn(source.model)
    return _exact(IEBN_TO_BN, source, arch, base_args(source.model_args), converted, report, expected)


def fold(
        source: Source,
        calibration: Images,
        held_out: Images,
        device: Optional[torch.device] = None,
        data: Optional[Mapping[str, Any]] = None,
) -> Conversion:
    """Fold an IEBN network: make the BN network with the mean of each gate over images in its place.

    Args:
        source: A network with trained gates.
        calibration: Images over which the gates are averaged; see ``fold_gates``.
        held_out: Other images, on which the two networks are compared.
        device: The device that runs the networks.
        data: What the figures say of the images.

    Raises:
        UsageError: It has no IEBN layer, or the images do not fit.
        IEBNZooError: Gates or logits are not finite, or the network that config.json will describe is not the one that
            was measured.
    """
    arch = _bn_architecture(source, 'fold')
    folded, report = fold_gates(source.model.to(device), calibration, held_out)
    folded = folded.cpu()
    conversion = _folded(source, arch, folded.state_dict(), report, data)
    _check_same(conversion.model, _golden_logits(folded, source), source, f'the folded {source.shown}')
    return conversion


def fold_again(source: Source, folded: Mapping[str, Tensor], report: FoldReport, data: Mapping[str, Any]) -> Conversion:
    """Return what ``fold`` returned for ``source``, from what was kept of it; no image is read.

    Args:
        source: The network that was folded.
        folded: The weights of the folded network.
        report: What the fold did.
        data: What the figures say of the images.

    Raises:
        UsageError: ``source`` has no IEBN layer.
        IEBNZooError: The weights are not those of such a network.
    """
    return _folded(source, _bn_architecture(source, 'fold'), folded, report, data)


def _folded(source: Source, arch: str, folded: Mapping[str, Tensor], report: FoldReport,
            data: Optional[Mapping[str, Any]]) -> Conversion:
    model_args = base_args(source.model_args)
    figures = {**_head(FOLD, source, arch), 'data': dict(data or {}), **report.figures()}
    return Conversion(FOLD, arch, model_args, _rebuilt(arch, model_args, folded, source), figures, report)


def _bn_architecture(source: Source, verb: str) -> str:
    if not source.is_iebn:
        raise UsageError(f'{source.shown} has no IEBN layer, so there is no gate to {verb}: it is {source.arch}.\n'
                         f'Expected an IEBN network, such as iebn_resnet50.')
    arch = base_architecture(source.arch)
    if arch is None:
        raise UsageError(
            f'{source.arch} has no registered BN variant, so no config.json can describe the result.\n'
            f'In Python: iebn_zoo.fold_gates(model, images) or iebn_zoo.convert_iebn_to_bn(model).')
    return arch


def _exact(
        kind: str,
        source: Source,
        arch: str,
        model_args: Dict[str, Any],
        converted: nn.Module,
        report: ConversionReport,
        expected: Tensor,
) -> Conversion:
    model = _rebuilt(arch, model_args, converted.state_dict(), source)
    difference, scale = _check_same(model, expected, source, source.shown)
    figures = {
        **_head(kind, source, arch), 'converted_norms': len(report.converted), 'left_norms': len(report.left),
        'golden_inputs': len(expected), 'max_logit_difference': difference, 'max_logit': scale,
        'layers': [asdict(layer) for layer in report.layers]}
    return Conversion(kind, arch, model_args, model, figures, report)


def _head(kind: str, source: Source, arch: str) -> Dict[str, Any]:
    return {'kind': kind, 'source': source.shown, 'source_architecture': source.arch, 'architecture': arch}


def _rebuilt(arch: str, model_args: Mapping[str, Any], converted: Mapping[str, Tensor], source: Source) -> nn.Module:
    # the network that a user's create_model will build from config.json
    model = create_model(arch, **model_args)
    load_weights(model, converted, f'the converted {source.shown}')
    return model.eval()


def _golden_logits(model: nn.Module, source: Source) -> Tensor:
    size = source.data_config['input_size']
    try:
        with torch.inference_mode():
            return model(golden_input(size))
    except (RuntimeError, ValueError, AssertionError) as e:
        raise IEBNZooError(f'{source.shown} does not run on inputs of its size {list(size)}: {first_line(e)}\n'
                           f'Give the size that it was trained for, such as --img-size 224.') from e


def _check_same(model: nn.Module, expected: Tensor, source: Source, shown: str) -> Tuple[float, float]:
    # the largest difference from the expected logits, and their scale
    difference = (_golden_logits(model, source) - expected).abs().max().item()
    scale = max(expected.abs().max().item(), 1e-3)
    if not difference <= TOLERANCE * scale:
        raise IEBNZooError(
            f'the converted network does not compute what {shown} does: logits differ by {difference:.3g} of '
            f'{scale:.3g}.\nExpected rounding only. Convert weights that are not extreme, or report this.')
    return difference, scale
