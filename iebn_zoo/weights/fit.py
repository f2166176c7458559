"""Loads weights into a network: converted to its norms, compared tensor by tensor, and whole or not at all."""
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.layers.frozen import drop_made_up
from iebn_zoo.models import CifarResNet, convert_reference_state_dict
from iebn_zoo.models.bn_checkpoint import gate_bn_norms
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.weights.file import read_weights_file, state_dict_of
from iebn_zoo.weights.settings import cfg_of, shortened
from iebn_zoo.weights.tensors import check_tensors, is_finite

BN, IEBN = 'BN', 'IEBN'
_GATES = ('gate_weight', 'gate_bias')
_STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')
_GIVEN = 'the given state dict'
_NAMED = 3  # keys of each kind that a message names


def norms_of(state_dict: Mapping[str, Tensor]) -> Optional[str]:
    """Return IEBN or BN, or None for weights without either norm."""
    owners = {key.rpartition('.')[0] for key in state_dict if key.endswith(f'.{_STATISTICS[0]}')}
    if any(key.endswith((*_GATES, 'weight_readjust')) for key in state_dict) or any(
            owner.endswith('.bn') and f'{owner}.weight' not in state_dict and
            f'{owner.removesuffix(".bn")}.weight' in state_dict for owner in owners):
        return IEBN
    return BN if owners else None


def norms_in(model: nn.Module) -> Optional[str]:
    """Return IEBN or BN, or None for a network without either norm."""
    if any(isinstance(m, IEBatchNorm2d) for m in model.modules()):
        return IEBN
    return BN if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) else None


def weights_for(model: nn.Module, state_dict: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Return the weights by the names and norms of ``model``, not yet compared with it.

    Weights of the reference code get the names of our CIFAR networks. Complete BN norms become IEBN norms where
    ``model`` gates them. Batch counts that are missing start from 0.

    Args:
        model: The network; it is not changed.
        state_dict: The weights without the prefixes of wrappers; they are not changed.

    Raises:
        IEBNZooError: Two keys mean the same tensor.
    """
    if isinstance(model, CifarResNet):
        state_dict = convert_reference_state_dict(state_dict)
    return gate_bn_norms(state_dict, model)


def without_other_head(model: nn.Module, state_dict: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Return ``state_dict`` with the new head of ``model`` if its own head has another number of classes.

    If one tensor of a head fits and another does not, the head stays, and loading refuses it.
    """
    own = model.state_dict()
    heads = cfg_of(model).get('classifier') or ()
    found = dict(state_dict)
    for head in (heads,) if isinstance(heads, str) else heads:
        names = [k for k in state_dict if k.startswith(f'{head}.') and k in own]
        if _other_classes([(state_dict[k].shape, own[k].shape) for k in names]):
            found.update({k: own[k] for k in names})
    return found


def _other_classes(shapes: List[Tuple[torch.Size, torch.Size]]) -> bool:
    # pairs (theirs, ours): all of theirs have one other number of classes, which is the first dimension
    return len({theirs[:1] for theirs, _ in shapes}) == 1 and all(
        len(theirs) == len(ours) and theirs[:1] != ours[:1] and theirs[0] > 0 for theirs, ours in shapes)


def load_weights(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Load all weights or none; the error names the first keys that do not fit, and the model is then unchanged.

    Args:
        model: The network.
        state_dict: The weights by the names of the network.
        source: Where the weights are from, for messages.

    Raises:
        IEBNZooError: A tensor is missing, unknown, of another shape or kind, not finite, or a variance below zero.
    """
    own, state_dict = model.state_dict(), dict(state_dict)
    for name, layer in model.named_modules():
        if isinstance(layer, IEBatchNorm2d):
            drop_made_up(state_dict, f'{name}.' if name else '', layer.bn)
    missing = [k for k in own if k not in state_dict]
    foreign = [k for k in state_dict if k not in own]
    wrong = [k for k in own if k in state_dict and own[k].shape != state_dict[k].shape]
    if missing or foreign or wrong:
        raise IEBNZooError(
            f'the weights in {source} are of another model than {_name(model)}: it '
            f'{_differences(own, state_dict, missing, foreign, wrong)}.\n{_advice(missing, foreign)}')
    check_tensors(state_dict, source)
    for name, tensor in state_dict.items():
        real = own[name].is_floating_point()
        if real != tensor.is_floating_point():
            raise IEBNZooError(f'{source}: {name} is a {str(tensor.dtype).removeprefix("torch.")} tensor.\n'
                               f'Expected {"real numbers" if real else "whole numbers"} there.')
        if real and tensor.element_size() > own[name].element_size() and not is_finite(tensor.to(own[name].dtype)):
            raise IEBNZooError(f'{source}: {name} has values beyond the range of '
                               f'{str(own[name].dtype).removeprefix("torch.")}.\nUse weights that are not damaged.')
    model.load_state_dict(state_dict)


def reference_weights(model: nn.Module, checkpoint: Union[str, Path, Mapping[str, Any]]) -> Dict[str, Tensor]:
    """Return what ``load_reference_checkpoint`` loads: read, renamed and converted, but not yet compared.

    BN norms become IEBN norms where ``model`` gates them (weight / sigmoid(-1), see ``bn_checkpoint``). Batch counts,
    which torch wrote only since 0.4.1, start from 0 where they are missing.

    Args:
        model: CIFAR network; it is not changed.
        checkpoint: See ``load_reference_checkpoint``.

    Returns:
        A new dict.

    Raises:
        UsageError: There is no such file.
        IEBNZooError: The file cannot be read or holds no weights, or two of its keys mean the same tensor.
    """
    if isinstance(checkpoint, (str, Path)):
        return weights_for(model, read_weights_file(checkpoint).state_dict)
    return weights_for(model, state_dict_of(checkpoint, _GIVEN))


def load_reference_checkpoint(model: nn.Module, checkpoint: Union[str, Path, Mapping[str, Any]]) -> nn.Module:
    """Load a checkpoint of the reference code or of the CIFAR framework into one of our CIFAR models, strictly.

    Layouts: ResNet, PreResNet, WRN and ResNeXt, of IEBN or of BN norms. BN loads into ``bn_*_cifar`` as it is and into
    ``iebn_*_cifar`` converted, which then computes the same.

    Args:
        model: For instance ``timm.create_model('iebn_resnet164_cifar', num_classes=100)``. The framework's ResNeXt is
            wider than ours: ``channels=(64, 128, 256), stem_width=64``.
        checkpoint: A file of any kind that ``iebn_zoo.weights`` reads (no code in it is run), or a state dict; a dict
            with the key ``state_dict`` or ``model`` is looked into.

    Returns:
        ``model``.

    Raises:
        UsageError: There is no such file.
        IEBNZooError: The file cannot be read, or its tensors are not finite or not those of ``model``.
    """
    source = str(checkpoint) if isinstance(checkpoint, (str, Path)) else _GIVEN
    load_weights(model, reference_weights(model, checkpoint), source)
    return model


def _differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor], missing: List[str], foreign: List[str],
                 wrong: List[str]) -> str:
    shapes = [f'{shortened(k)} as {tuple(given[k].shape)}, not {tuple(own[k].shape)}' for k in wrong]
    parts = (('lacks', _shown(missing), 'missing'), ('has an unknown', _shown(foreign), 'foreign'),
             ('has', shapes, 'of another shape'))
    return '; '.join(f"{verb} {', '.join(found[:_NAMED])}{', ...' if len(found) > _NAMED else ''} ({len(found)} {what})"
                     for verb, found, what in parts if found)


def _shown(keys: List[str]) -> List[str]:
    # weights come first, because they tell more than counts of batches
    return [shortened(key) for key in sorted(keys, key=lambda key: key.endswith(_STATISTICS[-1]))]


def _advice(missing: List[str], foreign: List[str]) -> str:
    if all(k.endswith((*_GATES, *_STATISTICS)) for k in missing):  # the convolutions fit, and only the norms differ
        if any(k.endswith(_GATES) for k in missing):
            return ('Norms of it have no gates: use a complete checkpoint, and gate_downsample=True only for one whose '
                    'shortcuts have gates too.')
        if missing and any(k.endswith(_GATES) for k in foreign):
            return 'It has gates: create the iebn_ model of this network.'
    return 'Name the model, and the depth, widths, num_classes and in_chans, that the weights were trained with.'


def _name(model: nn.Module) -> str:
    arch = cfg_of(model).get('architecture')
    return f'{arch} ({type(model).__name__})' if arch else type(model).__name__
