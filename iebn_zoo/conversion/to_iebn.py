"""convert_bn_to_iebn: any network with BatchNorm2d becomes an IEBN network that computes the same function."""
from fnmatch import fnmatchcase
from typing import Any, Callable, Collection, Dict, List, Optional, Sequence, Tuple, Union

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from iebn_zoo._compat import buffers_of
from iebn_zoo.conversion.folding.obstacles import altered, check_model
from iebn_zoo.conversion.naming import name_iebn_models
from iebn_zoo.conversion.obstacles import foreign_kind, half_statistics, hooked_weight, is_norm, odd_numbers, tied
from iebn_zoo.conversion.report import ConversionReport, LayerReport
from iebn_zoo.conversion.shortcuts import in_shortcut
from iebn_zoo.conversion.walk import Path, dotted, find_modules, replace_modules
from iebn_zoo.layers import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.layers.start import BN, GATE_BIAS_INIT, GATE_INIT
from iebn_zoo.util.errors import UsageError

Filter = Union[str, Sequence[str], Callable[[str, nn.Module], bool]]

_NOT_CHOSEN = 'is not chosen by filter'
_SHORTCUT = 'is in a shortcut, which the reference leaves plain: gate_shortcuts=True gates it'
_FIXED_WEIGHT = f'had affine=False: has a fixed weight of 1/sigmoid({GATE_BIAS_INIT:g})'


@torch.inference_mode(False)  # what is made is to be trained
def convert_bn_to_iebn(
        model: nn.Module,
        filter: Optional[Filter] = None,
        gate_shortcuts: bool = False,
) -> Tuple[nn.Module, ConversionReport]:
    """Replace the BatchNorm2d of a network by IEBN layers that compute the same, in eval and in training.

    weight -> weight / sigmoid(-1), gate_weight 0, gate_bias -1: every gate is sigmoid(-1) until it is trained. The
    gradient of weight is sigmoid(-1) times what it was; all others are the same. bias and running statistics remain
    the same tensors, without gradients; make the optimizer afterwards. ``nn.BatchNorm2d`` becomes IEBatchNorm2d, timm's
    ``BatchNormAct2d`` IEBatchNormAct2d with its activation. Where a norm's weight is frozen, so are its gates.
    Whatever is not exactly one of the two classes, or does more than they do (hooks, parametrizations), is left; the
    report says why. A norm that the model also holds in a plain list, or under any other name than that of a
    submodule, cannot be seen there and stays what it was.

    The state dict of a converted ``resnet18`` is that of ``iebn_resnet18``, and timm's ``save_for_hf`` calls it so.
    What was saved of a network for which there is no ``iebn_`` model loads into one that was converted the same way.

    Args:
        model: Any network, changed in place; norms in it that are gated already stay.
        filter: Which norms to convert: glob patterns of names (``'layer4.*'``; ``*`` matches dots too), or a function
            of name and module. None for all.
        gate_shortcuts: Convert norms of residual shortcuts too. The reference network leaves them plain.

    Returns:
        ``model``, or the new layer where ``model`` itself is a norm; and a report of every norm.

    Raises:
        UsageError: ``model`` is what TorchScript or ``torch.compile`` returned (one that ``model.compile()`` compiled
            in place follows the change), wrapped for parallel training or no module; a pattern fits no norm; or nothing
            is left to convert. ``model`` is then unchanged.
    """
    check_model(model)
    paths = find_modules(model, is_norm)
    chosen = _chooser(filter, paths)
    ties = tied(model)
    like = next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), torch.empty(0))
    new, entries = {}, []
    for norm, places in paths.items():
        note = _obstacle(norm) or ties.get(norm)
        if note is None and not chosen(places, norm):
            note = _NOT_CHOSEN
        if note is None and not gate_shortcuts and any(map(in_shortcut, places)):
            note = _SHORTCUT
        if note is None:
            assert isinstance(norm, nn.BatchNorm2d)  # or _obstacle would have said so
            new[norm] = _gated(norm, like)
            note = '' if norm.weight is not None else _FIXED_WEIGHT
        entries.append(LayerReport.of(places, norm, new.get(norm), note))
    report = ConversionReport(tuple(entries))
    if not new:
        raise UsageError(_nothing_to_convert(model, report))
    name_iebn_models(model, new, gate_shortcuts)
    for norm in new:
        if norm.bias is not None:
            norm.bias.grad = None  # as that of the weight, which is a new one
    return replace_modules(model, paths, new), report


def _obstacle(norm: nn.Module) -> Optional[str]:
    children = ('drop', 'act') if isinstance(norm, BatchNormAct2d) else ()
    return (foreign_kind(norm) or altered(norm, children) or half_statistics(norm) or hooked_weight(norm)
            or odd_numbers(norm))


def _chooser(filter: Optional[Filter], paths: Dict[nn.Module, List[Path]]) -> Callable[[List[Path], nn.Module], bool]:
    if filter is None:
        return lambda places, norm: True
    if callable(filter):
        return lambda places, norm: any(filter(dotted(p), norm) for p in places)
    patterns = [filter] if isinstance(filter, str) else filter
    if not isinstance(patterns, Collection) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UsageError(f'filter is {" ".join(repr(filter).split())[:80]}.\n'
                         f'Expected a glob, a list of globs, or a function of name and module.')
    names = [dotted(p) for places in paths.values() for p in places]
    for pattern in patterns:
        if names and not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                f'the filter pattern {pattern!r} fits no norm of the model.\n'
                f'Expected a glob of names such as {", ".join(map(repr, names[:3]))}.')
    return lambda places, norm: any(fnmatchcase(dotted(p), pattern) for p in places for pattern in patterns)


@torch.no_grad()
def _gated(norm: nn.BatchNorm2d, like: Tensor) -> IEBatchNorm2d:
    """Make the IEBN layer that computes what ``norm`` does, with dtype and device of ``like`` if it has no tensors."""
    arguments: Dict[str, Any] = dict(
        eps=norm.eps, momentum=norm.momentum, track_running_stats=norm.track_running_stats, device='meta', start=BN)
    if isinstance(norm, BatchNormAct2d):
        layer = IEBatchNormAct2d(norm.num_features, apply_act=False, **arguments)
        layer.drop, layer.act = norm.drop, norm.act
    else:
        layer = IEBatchNorm2d(norm.num_features, **arguments)
    weight, learns = norm.weight, True
    if weight is None:
        like = like if norm.running_mean is None else norm.running_mean
        weight = torch.ones(norm.num_features, dtype=like.dtype, device=like.device)
    else:
        learns = weight.requires_grad
    scaled = (weight.to(torch.promote_types(weight.dtype, torch.float32)) / GATE_INIT).to(weight.dtype)
    layer.weight = nn.Parameter(scaled, requires_grad=weight.requires_grad)
    layer.bias = norm.bias
    if layer.bias is not None and layer.bias.is_inference():
        layer.bias = nn.Parameter(norm.bias.clone(), requires_grad=norm.bias.requires_grad)
    layer.gate_weight = nn.Parameter(torch.zeros_like(scaled), requires_grad=learns)
    layer.gate_bias = nn.Parameter(torch.full_like(scaled, GATE_BIAS_INIT), requires_grad=learns)
    buffers_of(layer.bn).update({k: v.clone() if v is not None and v.is_inference() else v
                                 for k, v in buffers_of(norm).items()})
    layer.training = layer.bn.training = norm.training
    return layer


def _nothing_to_convert(model: nn.Module, report: ConversionReport) -> str:
    reasons = {layer.note: layer for layer in reversed(report.left)}
    found = '; '.join(f'{layer.label} ({layer.before}) {note}' for note, layer in list(reasons.items())[:3])
    return (f'no norm of this {type(model).__name__} can be converted: {found or "it has no BatchNorm"}.\n'
            f'Expected at least one torch.nn.BatchNorm2d or timm BatchNormAct2d that is not left out.')
