"""A file of weights of any kind: safetensors, a state dict, a checkpoint of timm's train.py or of ours."""
import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

import timm
import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor

from iebn_zoo.errors import IEBNZooError, UsageError
from iebn_zoo.hub.checkpoint_settings import check_settings, label_names_of, shortened

# flags of timm's train.py that say how it prepared its images
_SETTINGS = ('img_size', 'mean', 'std', 'interpolation', 'crop_pct')


@dataclass(frozen=True)
class CheckpointFile:
    """What such a file says.

    Attributes:
        state_dict: Contiguous float32 tensors on the CPU, without the prefixes of DDP and torch.compile.
        arch: timm name, or None where the file does not tell.
        model_args: Arguments of the architecture, as far as the file tells.
        data_config: Input settings of our training, or None.
        settings: Flags of timm's training that set input settings.
        label_names: Classes in order, or None.
    """

    state_dict: Dict[str, Tensor]
    arch: Optional[str] = None
    model_args: Dict[str, Any] = field(default_factory=dict)
    data_config: Optional[Dict[str, Any]] = None
    settings: Dict[str, Any] = field(default_factory=dict)
    label_names: Optional[List[str]] = None


def read_checkpoint_file(path: Union[str, Path], use_ema: bool = False) -> CheckpointFile:
    """Read a file of weights; no code in it is run.

    Args:
        path: The file.
        use_ema: Take the EMA weights.

    Raises:
        UsageError: There is no such file, or it has no EMA weights.
        IEBNZooError: It is damaged, holds no state dict, or its weights are not finite.
    """
    path = Path(path)
    content = _read(path)
    state = _state_dict(content, path, use_ema)
    options = content.get('args')
    options = vars(options) if isinstance(options, argparse.Namespace) else {}
    data_config = _mapping_or_none(content.get('data_config'))
    check_settings(data_config or {}, f'{path}: data_config')
    check_settings({k: options.get(k) for k in _SETTINGS}, f'{path}: args')
    model_args = content.get('model_args') or options.get('model_kwargs')
    arch = content.get('arch')
    if isinstance(model_args, dict) and not all(isinstance(key, str) for key in model_args):
        raise IEBNZooError(f'{path}: model_args is {shortened(model_args)}.\nExpected arguments by name.')
    return CheckpointFile(
        state, arch if isinstance(arch, str) and timm.is_model(arch.split('.')[0]) else None,
        dict(model_args) if isinstance(model_args, dict) else {},
        data_config,
        {k: options[k] for k in _SETTINGS if options.get(k) is not None}, label_names_of(content, path))


def _mapping_or_none(value: Any) -> Optional[Dict[str, Any]]:
    return value if isinstance(value, dict) else None


def _read(path: Path) -> Dict[str, Any]:
    if not path.is_file():
        raise UsageError(f'no checkpoint at {path}.\nExpected a file of weights: .safetensors, .pth or .pth.tar.')
    try:
        if path.suffix == '.safetensors':
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm keeps its flags in one
            content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as e:  # torch.load raises a dozen types for a damaged file
        raise IEBNZooError(
            f'cannot read the checkpoint {path}: it is truncated, damaged or no checkpoint ({type(e).__name__}).\n'
            f'Expected a .safetensors file, or what torch.save wrote of tensors and plain values.') from e
    if not isinstance(content, dict):
        raise IEBNZooError(
            f'{path} holds a {type(content).__name__}.\nExpected a state dict, or a checkpoint with one.')
    return content


def _state_dict(content: Dict[str, Any], path: Path, use_ema: bool) -> Dict[str, Tensor]:
    keys = ('state_dict_ema', 'model_ema') if use_ema else ('state_dict', 'model')
    found = next((content[k] for k in keys if isinstance(content.get(k), dict)), None)
    if found is None and use_ema:
        raise UsageError(f'{path} has no EMA weights.\nLeave out --use-ema.')
    state = content if found is None else found
    foreign = next((k for k, v in state.items() if not isinstance(k, str) or not isinstance(v, Tensor)), None)
    if foreign is not None or not state:
        what = 'is empty' if foreign is None else f'has {foreign!r}, a {type(state[foreign]).__name__}'
        what += '' if foreign is None or isinstance(foreign, str) else f', under a {type(foreign).__name__}'
        raise IEBNZooError(f'{path} holds no state dict: it {what}.\n'
                           f'Expected tensors by name, or a checkpoint with a state_dict of them.')
    state = clean_state_dict(state)
    kinds = {k: kind for k, kind in ((k, _odd_kind(v)) for k, v in state.items()) if kind}
    if kinds:
        odd = next(iter(kinds))
        raise IEBNZooError(f'{path}: {odd} is a {kinds[odd]} tensor.\nExpected dense tensors of real numbers.')
    state = {k: v.to(torch.float32 if v.is_floating_point() else v.dtype).contiguous() for k, v in state.items()}
    bad = next((k for k, v in state.items() if not torch.isfinite(v).all()), None)
    if bad is not None:
        raise IEBNZooError(f'{path}: {bad} has NaN or infinite values.\nUse a checkpoint of an earlier epoch.')
    return state


def _odd_kind(tensor: Tensor) -> str:
    """sparse_coo, complex64, ... of what is not plain real numbers in memory; '' of what is."""
    if tensor.layout != torch.strided:
        return str(tensor.layout).removeprefix('torch.')
    if tensor.is_complex() or tensor.is_quantized:
        return str(tensor.dtype).removeprefix('torch.')
    return 'meta' if tensor.is_meta else 'nested' if tensor.is_nested else ''
