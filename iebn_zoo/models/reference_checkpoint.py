"""Loads checkpoints in the layout of the paper's reference code (github.com/gbup-group/IEBN) into the CIFAR models."""
import re
from pathlib import Path
from typing import Dict, Mapping, Union

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from iebn_zoo.errors import IEBNZooError, UsageError

__all__ = ['convert_reference_state_dict', 'load_reference_checkpoint']

_RENAMES = {'weight_readjust': 'gate_weight', 'bias_readjust': 'gate_bias'}
_STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')


def convert_reference_state_dict(state_dict: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Rename a reference state dict to ours.

    ``module.`` (DataParallel) goes, ``weight_readjust``/``bias_readjust`` become ``gate_weight``/``gate_bias``,
    (1, C, 1, 1) parameters of norms become (C,), and the statistics of a gated norm move to its child ``bn``. Plain
    BatchNorm, as in the reference's shortcuts, stays as it is.

    Args:
        state_dict: As ``torch.load`` gave it, without the outer ``{'state_dict': ...}``.

    Returns:
        A new dict for ``load_state_dict`` of a model made by ``timm.create_model('iebn_..._cifar')``.
    """
    plain = {re.sub(r'^(module\.)+', '', key): value for key, value in state_dict.items()}
    gated = {key.rpartition('.')[0] for key in plain if key.endswith('.weight_readjust')}
    out = {}
    for key, value in plain.items():
        owner, _, name = key.rpartition('.')
        if owner in gated:
            if name in _STATISTICS:
                name = f'bn.{name}'
            else:
                value = value.reshape(-1)
        out[f'{owner}.{_RENAMES.get(name, name)}'] = value
    return out


def load_reference_checkpoint(model: nn.Module, checkpoint: Union[str, Path, Mapping[str, Tensor]]) -> nn.Module:
    """Load a checkpoint of the reference code into one of our CIFAR models, strictly.

    Args:
        model: For instance ``timm.create_model('iebn_resnet164_cifar', num_classes=100)``.
        checkpoint: A ``.pth``/``.pth.tar`` file (read with ``weights_only=True``), a ``.safetensors`` file, or a
            state dict; a dict with the key ``state_dict`` is looked into.

    Returns:
        ``model``.

    Raises:
        UsageError: There is no such file.
        IEBNZooError: The file cannot be read, or its tensors are not those of ``model``.
    """
    source = 'the given state dict'
    if isinstance(checkpoint, (str, Path)):
        source = str(checkpoint)
        checkpoint = _read(Path(checkpoint))
    inner = checkpoint.get('state_dict', checkpoint)
    items = inner.items() if isinstance(inner, Mapping) else ()  # nothing to load is reported below, as all missing
    converted = convert_reference_state_dict({k: v for k, v in items if isinstance(k, str) and isinstance(v, Tensor)})
    own = model.state_dict()
    missing = [k for k in own if k not in converted]
    foreign = [k for k in converted if k not in own]
    wrong = [k for k in own if k in converted and own[k].shape != converted[k].shape]
    if missing or foreign or wrong:
        what, key = next((w, keys[0]) for w, keys in (
            ('lacks', missing), ('has no place for', foreign), ('has another shape of', wrong)) if keys)
        subject = 'it' if what != 'has no place for' else 'the model'
        raise IEBNZooError(
            f'{source} does not fit {type(model).__name__}: {subject} {what} {key!r} '
            f'({len(missing)} missing, {len(foreign)} foreign, {len(wrong)} of another shape).\n'
            f'Create the model with the depth and num_classes of the checkpoint.')
    model.load_state_dict(converted)
    return model


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
