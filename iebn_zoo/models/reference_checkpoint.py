"""Loads checkpoints of the paper's reference code, and of the CIFAR framework it grew from, into the CIFAR models.

The first is github.com/gbup-group/IEBN, the second github.com/bearpaw/pytorch-classification (plain BN).
"""
from pathlib import Path
from typing import Any, Dict, List, Mapping, Union

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from iebn_zoo.errors import IEBNZooError, UsageError
from iebn_zoo.models.bn_checkpoint import checkpoint_filter_fn, gate_bn_norms, refuse_bn_state_dict
from iebn_zoo.models.reference_layouts import our_names

__all__ = ['convert_reference_state_dict', 'load_reference_checkpoint', 'reference_weights']

_RENAMES = {'weight_readjust': 'gate_weight', 'bias_readjust': 'gate_bias'}
_GATES = tuple(_RENAMES.values())
_STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')
_REMEDY = 'iebn_zoo.models.load_reference_checkpoint(model, PATH_OR_STATE_DICT)'


def convert_reference_state_dict(state_dict: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Rename a reference state dict to ours.

    ``module.`` (DataParallel) goes, blocks and stages of PreResNet, WRN and ResNeXt get our names,
    ``weight_readjust``/``bias_readjust`` become ``gate_weight``/``gate_bias``, (1, C, 1, 1) parameters of norms become
    (C,), and the statistics of a gated norm move to its child ``bn``. Plain BatchNorm, as in the reference's
    shortcuts, stays as it is; a state dict of ours is returned unchanged.

    Args:
        state_dict: As ``torch.load`` gave it, without the outer ``{'state_dict': ...}``.

    Returns:
        A new dict for ``load_state_dict`` of a model made by ``timm.create_model('iebn_..._cifar')``; of plain norms
        alone: for ``bn_..._cifar``.

    Raises:
        IEBNZooError: Two keys mean the same tensor.
    """
    names = our_names(state_dict)
    gated = {name.rpartition('.')[0] for name in names.values() if name.endswith('.weight_readjust')}
    out = {}
    for key, value in state_dict.items():
        owner, dot, name = names[key].rpartition('.')
        if owner in gated:
            if name in _STATISTICS:
                name = f'bn.{name}'
            elif isinstance(value, Tensor):
                value = value.reshape(-1)
        out[f'{owner}{dot}{_RENAMES.get(name, name)}'] = value
    return out


def cifar_checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> Dict[str, Tensor]:
    """timm's ``pretrained_filter_fn`` of the CIFAR models: reference layouts renamed, then BN converted to IEBN.

    Args:
        state_dict: Of ours, of the reference or of the CIFAR framework; of BN or of IEBN norms. It is not changed.
        model: CIFAR network that is to load it.

    Returns:
        A new dict.

    Raises:
        UsageError: As ``bn_checkpoint.checkpoint_filter_fn``.
    """
    return checkpoint_filter_fn(convert_reference_state_dict(state_dict), model)


def refuse_reference_state_dict(state_dict: Mapping[str, Any], model: nn.Module, prefix: str = '') -> None:
    """Raise UsageError, a ValueError, if ``load_reference_checkpoint`` should load ``state_dict`` into ``model``.

    That is where it has other names than ours, or BN norms where ``model`` has IEBN ones. ``load_state_dict`` converts
    nothing; with ``strict=False`` it would leave those tensors out and say nothing.

    Args:
        state_dict: As ``model`` is to load it.
        model: CIFAR network.
        prefix: Of the keys of ``model`` in ``state_dict``.
    """
    inner = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
    own = model.state_dict().keys()
    if inner.keys() <= own:
        return
    for key, name in our_names(inner).items():
        owner, _, last = name.rpartition('.')
        ours = f'{owner}.{_RENAMES.get(last, last)}'
        if key not in own and ours in own:
            raise UsageError(
                f'cannot load the state dict of other code into {type(model).__name__}: it has {prefix}{key}, here '
                f'that is {prefix}{ours}.\n'
                f'What converts it: {_REMEDY} in the place of checkpoint_path=PATH and of load_state_dict;\n'
                f"in timm's train.py --pretrained --pretrained-path PATH in the place of --initial-checkpoint PATH.")
    refuse_bn_state_dict(state_dict, model, prefix, _REMEDY)


def reference_weights(model: nn.Module, checkpoint: Union[str, Path, Mapping[str, Any]]) -> Dict[str, Tensor]:
    """What ``load_reference_checkpoint`` loads: read, renamed, converted to the norms of ``model``, not compared.

    BN norms become IEBN ones where ``model`` gates them (weight / sigmoid(-1), see ``bn_checkpoint``). Batch counts,
    which torch wrote only since 0.4.1, start from 0 where they are missing.

    Args:
        model: CIFAR network, not changed.
        checkpoint: As ``load_reference_checkpoint``.

    Returns:
        A new dict.

    Raises:
        UsageError: There is no such file.
        IEBNZooError: The file cannot be read, or two of its keys mean the same tensor.
    """
    if isinstance(checkpoint, (str, Path)):
        checkpoint = _read(Path(checkpoint))
    inner = checkpoint.get('state_dict', checkpoint)
    items = inner.items() if isinstance(inner, Mapping) else ()  # nothing to load is reported as all missing
    tensors = {k: v for k, v in items if isinstance(k, str) and isinstance(v, Tensor)}
    weights = gate_bn_norms(convert_reference_state_dict(tensors), model)
    counts = {key: torch.zeros_like(value, device='cpu') for key, value in model.state_dict().items()
              if key.endswith('.num_batches_tracked')}
    return {**counts, **weights} if weights else weights


def load_reference_checkpoint(model: nn.Module, checkpoint: Union[str, Path, Mapping[str, Any]]) -> nn.Module:
    """Load a checkpoint of the reference code or of the CIFAR framework into one of our CIFAR models, strictly.

    Layouts: ResNet, PreResNet, WRN and ResNeXt, of IEBN or of BN norms. BN loads into ``bn_*_cifar`` as it is and into
    ``iebn_*_cifar`` converted, which then computes the same.

    Args:
        model: For instance ``timm.create_model('iebn_resnet164_cifar', num_classes=100)``. The framework's ResNeXt is
            wider than ours: ``channels=(64, 128, 256), stem_width=64``.
        checkpoint: A ``.pth``/``.pth.tar`` file (read with ``weights_only=True``), a ``.safetensors`` file, or a
            state dict; a dict with the key ``state_dict`` is looked into.

    Returns:
        ``model``.

    Raises:
        UsageError: There is no such file.
        IEBNZooError: The file cannot be read, or its tensors are not those of ``model``.
    """
    weights = reference_weights(model, checkpoint)
    own = model.state_dict()
    missing = [k for k in own if k not in weights]
    foreign = [k for k in weights if k not in own]
    wrong = [k for k in own if k in weights and own[k].shape != weights[k].shape]
    if missing or foreign or wrong:
        source = str(checkpoint) if isinstance(checkpoint, (str, Path)) else 'the given state dict'
        raise _misfit(source, model, missing, foreign, wrong)
    model.load_state_dict(weights)
    return model


def _misfit(source: str, model: nn.Module, missing: List[str], foreign: List[str], wrong: List[str]) -> IEBNZooError:
    what, key = next((w, keys[0]) for w, keys in (
        ('lacks', missing), ('has no place for', foreign), ('has another shape of', wrong)) if keys)
    subject = 'it' if what != 'has no place for' else 'the model'
    advice = 'Create the model with the depth, the widths and the num_classes of the checkpoint.'
    if all(k.endswith((*_GATES, *_STATISTICS)) for k in missing):  # the same convolutions, other norms
        if any(k.endswith(_GATES) for k in missing):
            advice = ('Other norms of it have gates: use a complete checkpoint, and gate_downsample=True only for one '
                      'whose shortcuts have gates too.')
        elif missing and any(k.endswith(_GATES) for k in foreign):
            advice = 'It has gates: create the iebn_ model of this network.'
    return IEBNZooError(
        f'{source} does not fit {type(model).__name__}: {subject} {what} {key!r} '
        f'({len(missing)} missing, {len(foreign)} foreign, {len(wrong)} of another shape).\n{advice}')


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise UsageError(f'no checkpoint at {path}.\nExpected a .pth, .pth.tar or .safetensors file.')
    try:
        if path.suffix == '.safetensors':
            return load_file(path)
        loaded = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as e:
        raise IEBNZooError(
            f'cannot read the checkpoint {path}: {type(e).__name__}.\n'
            f'Expected a file of plain tensors (weights_only), complete; download or copy it again.') from e
    if not isinstance(loaded, Mapping):
        raise IEBNZooError(f'{path} holds a {type(loaded).__name__}, expected a state dict.\nSave model.state_dict().')
    return loaded
