"""Checks that tensors can be weights: dense, real and finite, with no variance below zero."""
import re
from typing import Dict, Mapping

import torch
from torch import Tensor

from iebn_zoo.util.errors import IEBNZooError

_WRAPPERS = re.compile(r'(module\.|_orig_mod\.)+')  # DataParallel, DDP, torch.compile and timm's EMA add these
_AVERAGED = 'n_averaged'  # of torch.optim.swa_utils.AveragedModel: how many networks the mean is of
# tensors of these names are real numbers in every network; a relative position index, for example, is an integer
_REAL = frozenset(('weight', 'bias', 'running_mean', 'running_var', 'gate_weight', 'gate_bias', 'weight_readjust',
                   'bias_readjust'))
_VARIANCE = 'running_var'


def without_wrappers(state_dict: Mapping[str, Tensor], source: str) -> Dict[str, Tensor]:
    """Return the state dict without the prefixes of wrappers, and without the count of torch's AveragedModel.

    Raises:
        IEBNZooError: Two keys mean the same tensor.
    """
    bare: Dict[str, Tensor] = {}
    averaged = _AVERAGED in state_dict and all(_WRAPPERS.match(key) for key in state_dict if key != _AVERAGED)
    for key, value in state_dict.items():
        if averaged and key == _AVERAGED:
            continue
        match = _WRAPPERS.match(key)
        name = key[match.end():] if match else key
        if name in bare:
            raise IEBNZooError(f'{source} holds {name!r} twice, with the prefix of a wrapper and without.\n'
                               f'Expected the state dict of one network.')
        bare[name] = value
    return bare


def check_tensors(state_dict: Mapping[str, Tensor], source: str) -> None:
    """Raise IEBNZooError for the first tensor that no network can have; the message names it.

    Args:
        state_dict: Tensors by name.
        source: Where the tensors are from, for the message.
    """
    for name, tensor in state_dict.items():
        kind = _odd_kind(name, tensor)
        if kind:
            raise IEBNZooError(f'{source}: {name} is a {kind} tensor.\nExpected dense tensors of real numbers.')
        if not tensor.is_floating_point():
            continue
        if not is_finite(tensor):
            raise IEBNZooError(f'{source}: {name} has NaN or infinite values.\n'
                               f'Use weights that did not diverge, such as a checkpoint of an earlier epoch.')
        if name.rpartition('.')[2] == _VARIANCE and bool((_comparable(tensor) < 0).any()):
            raise IEBNZooError(f'{source}: {name} has negative values, and it is a variance.\n'
                               f'Use weights that are not damaged.')


def is_finite(tensor: Tensor) -> bool:
    """Tell whether all values are finite, for the 8-bit types too, which torch itself cannot check."""
    return bool(torch.isfinite(_comparable(tensor)).all())


def _comparable(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.element_size() == 1 else tensor  # torch does not compare 8-bit floats


def _odd_kind(name: str, tensor: Tensor) -> str:
    """Return the kind of a tensor that is not plain real numbers in memory, such as sparse_coo; '' for one that is."""
    if tensor.layout != torch.strided:
        return str(tensor.layout).removeprefix('torch.')
    if tensor.is_complex() or tensor.is_quantized:
        return str(tensor.dtype).removeprefix('torch.')
    if tensor.is_meta or tensor.is_nested:
        return 'meta' if tensor.is_meta else 'nested'
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return 'repeating'  # a few bytes in the file that would fill the memory
    if not tensor.is_floating_point() and name.rpartition('.')[2] in _REAL:
        return str(tensor.dtype).removeprefix('torch.')
    return ''
