"""Loads the state dict of a BN network into an IEBN network of the same structure, which then computes the same.

A gate with gate_weight 0 is the constant sigmoid(gate_bias), so the scale of an IEBN norm that starts from a BN one is
weight / sigmoid(-1); see iebn_zoo/ops/README.md.
"""
from typing import Any, Dict, List, Mapping, Optional, Tuple

import torch
from torch import Tensor, nn

from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.layers.start import GATE_BIAS_INIT, GATE_INIT
from iebn_zoo.util.errors import UsageError

_AFFINE = ('weight', 'bias')
_GATES = ('gate_weight', 'gate_bias')
_STATISTICS = ('running_mean', 'running_var')
_OPTIONAL = 'num_batches_tracked'  # checkpoints of old torch releases lack it; nn.BatchNorm2d then starts from 0
_RENAMED = ('_resnext29_8x64d_cifar', '_resnext29_8x32d_cifar')  # the old name of a network, and its name now
_BN, _IEBN = 'BN', 'IEBN'
_TENSORS = {_BN: (*_AFFINE, *_STATISTICS), _IEBN: (*_AFFINE, *_GATES, *(f'bn.{name}' for name in _STATISTICS))}


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> Dict[str, Tensor]:
    """Make the state dict that ``model`` loads, from one of BN or of IEBN norms: timm's ``pretrained_filter_fn``.

    Each gated norm gets weight / sigmoid(-1), gate_weight 0 and gate_bias -1, and its statistics move to its child
    ``bn``; 16 bit weights are divided in float32. Norms that ``model`` leaves plain stay as they are, and a state dict
    that has gates already passes unchanged.

    Args:
        state_dict: As it was saved, complete but for the classifier. It is not changed.
        model: IEBN network that is to load it.

    Returns:
        A new dict.

    Raises:
        UsageError: A ValueError: norms are missing or of another width; some are gated and others are not where
            ``model`` gates both; or ``model`` does not have all of the norms. The function checks each norm, because
            timm loads with ``strict=False`` when the number of classes differs: a missing norm would then silently keep
            its random start, and a surplus one would be dropped.
    """
    gated, plain = _norms(model)
    forms = {name: _form(state_dict, name, channels) for name, channels in {**gated, **plain}.items()}
    broken = [name for name, form in forms.items() if form is None]
    if broken:
        raise _misfit(state_dict, model, broken, {**gated, **plain})
    foreign = _foreign(state_dict, {**gated, **plain})
    if foreign:
        raise _too_deep(model, foreign)
    have = [name for name in gated if forms[name] == _IEBN]
    lack = [name for name in gated if forms[name] == _BN]
    surplus = [name for name in plain if forms[name] == _IEBN]
    if surplus or (have and lack):
        raise _mixed(model, have, lack, surplus)
    if have or not gated:
        return dict(state_dict)
    return _convert(state_dict, gated)


def current_name(arch: str, state_dict: Mapping[str, Any], model_args: Mapping[str, Any]) -> str:
    """Return today's name of the network in a checkpoint.

    ``*_resnext29_8x64d_cifar`` was the name of what is ``*_resnext29_8x32d_cifar`` now; its stem tells the two apart.
    """
    stem = tuple(getattr(state_dict.get('conv1.weight'), 'shape', ()))
    if arch.endswith(_RENAMED[0]) and stem[:1] == (32,) and not {'stem_width', 'channels'} & set(model_args):
        return arch.removesuffix(_RENAMED[0]) + _RENAMED[1]
    return arch


def gate_bn_norms(state_dict: Mapping[str, Tensor], model: nn.Module) -> Dict[str, Tensor]:
    """Convert the norms that ``model`` gates and ``state_dict`` holds as complete BN ones, but check nothing.

    The place of its statistics tells a BN norm: they stand beside its weight, those of an IEBN norm under ``bn``. An
    IEBN state dict that has lost its gates is therefore not taken for a BN one, and stays as it is.

    Args:
        state_dict: Of ``model`` or of its BN twin; one that has a gate is of IEBN and stays as it is. Where a norm
            lacks only its batch count, which torch has written since 0.4.1, the result has 0 for it.
        model: Network that is to load it.

    Returns:
        A new dict.
    """
    gated, _ = _norms(model)
    out = dict(state_dict)
    if not any(f'{name}.{key}' in state_dict for name in gated for key in _GATES):
        out = _convert(state_dict, {name: channels for name, channels in gated.items() if _is_bn(state_dict, name)})
    counts = [key for key in model.state_dict() if key.rpartition('.')[2] == _OPTIONAL and key not in out]
    return {**{key: torch.tensor(0) for key in counts if f'{key.rpartition(".")[0]}.{_STATISTICS[1]}' in out}, **out}


def _is_bn(state_dict: Mapping[str, Tensor], name: str) -> bool:
    present = {key for keys in _TENSORS.values() for key in keys if f'{name}.{key}' in state_dict}
    return present == {*_TENSORS[_BN]} and all(state_dict[f'{name}.{key}'].dim() == 1 for key in present)


def refuse_bn_state_dict(
        state_dict: Mapping[str, Tensor],
        model: nn.Module,
        prefix: str = '',
        remedy: str = 'timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(file=PATH))',
) -> None:
    """Raise UsageError, a ValueError, if a gated norm of ``model`` would have to load the statistics of a BN one.

    ``load_state_dict`` does not convert. With ``strict=False`` it would leave out the statistics and say nothing.

    Args:
        state_dict: As ``model`` is to load it.
        model: IEBN network.
        prefix: Of the keys of ``model`` in ``state_dict``.
        remedy: What converts it, for the message.
    """
    name = next((name for name in _norms(model)[0] if f'{prefix}{name}.{_STATISTICS[0]}' in state_dict), None)
    if name is not None:
        raise UsageError(
            f'cannot load the state dict of a BN network into {_arch(model)}: it has {prefix}{name}.{_STATISTICS[0]}, '
            f'that of an IEBN network has {prefix}{name}.bn.{_STATISTICS[0]}.\n'
            f'What converts it: {remedy} in the place of checkpoint_path=PATH and of load_state_dict;\n'
            f"in timm's train.py --pretrained --pretrained-path PATH in the place of --initial-checkpoint PATH.")


def _norms(model: nn.Module) -> Tuple[Dict[str, int], Dict[str, int]]:
    gated = {name: m.num_features for name, m in model.named_modules() if isinstance(m, IEBatchNorm2d)}
    children = {f'{name}.bn' for name in gated}
    plain = {name: m.num_features for name, m in model.named_modules()
             if isinstance(m, nn.BatchNorm2d) and name not in children}
    return gated, plain


def _form(state_dict: Mapping[str, Tensor], name: str, channels: int) -> Optional[str]:
    # what the state dict holds under this name: a complete BN norm, a complete IEBN norm, or neither
    present = {key for keys in _TENSORS.values() for key in keys if f'{name}.{key}' in state_dict}
    shapes = {key: getattr(state_dict[f'{name}.{key}'], 'shape', None) for key in present}
    return next((form for form, keys in _TENSORS.items() if shapes == dict.fromkeys(keys, (channels,))), None)


def _foreign(state_dict: Mapping[str, Tensor], norms: Mapping[str, int]) -> List[str]:
    # norms of the state dict that the model does not have: it is of a deeper network
    owners = [key.rpartition('.')[0] for key in state_dict if key.rpartition('.')[2] == _STATISTICS[0]]
    return [name for name in owners if name not in norms and name.removesuffix('.bn') not in norms]


def _convert(state_dict: Mapping[str, Tensor], gated: Mapping[str, int]) -> Dict[str, Tensor]:
    out = {}
    for key, value in state_dict.items():
        owner, _, name = key.rpartition('.')
        if owner in gated and name == 'weight':
            wide = value if value.dtype == torch.float64 else value.float()
            out[key] = wide / GATE_INIT
            out[f'{owner}.gate_weight'] = torch.zeros_like(wide)
            out[f'{owner}.gate_bias'] = torch.full_like(wide, GATE_BIAS_INIT)
        elif owner in gated and name in (*_STATISTICS, _OPTIONAL):
            out[f'{owner}.bn.{name}'] = value
        else:
            out[key] = value
    return out


def _misfit(state_dict: Mapping[str, Tensor], model: nn.Module, broken: List[str], norms: Dict[str, int]) -> UsageError:
    first = broken[0]
    found = [f'{key[len(first) + 1:]} {tuple(getattr(value, "shape", ()))}' for key, value in state_dict.items()
             if key.startswith(f'{first}.')]
    found_text = ', '.join(found) or f'nothing; the first key is {next(iter(state_dict), None)!r}'
    return UsageError(
        f'the weights do not fit {_arch(model)}: {len(broken)} of its {len(norms)} norms are incomplete or of another '
        f'shape ({_some(broken)}); of {first} there is {found_text}.\n'
        f'Expected {", ".join(_TENSORS[_BN])} of a BN network, or {", ".join(_TENSORS[_IEBN])} of an IEBN one, each of '
        f'shape ({norms[first]},).\n{_renamed(model)}Use a checkpoint of a network of the same depth and width.')


def _renamed(model: nn.Module) -> str:
    name, (old, new) = _arch(model), _RENAMED
    return f'What was {name} in an early version is now {name.replace(old, new)}. ' if name.endswith(old) else ''


def _too_deep(model: nn.Module, foreign: List[str]) -> UsageError:
    return UsageError(
        f'the weights do not fit {_arch(model)}: they have {len(foreign)} norms that it does not have '
        f'({_some(foreign)}).\n'
        f'Expected the norms of the model and no others.\nUse a checkpoint of a network of the same depth.')


def _mixed(model: nn.Module, have: List[str], lack: List[str], surplus: List[str]) -> UsageError:
    arch = _arch(model)
    if surplus:
        what, advice = ('', 'Use the IEBN model of this network, iebn_<net>.') if not _norms(model)[0] else (
            ', as in the shortcuts of the reference network',
            'Create the model with gate_downsample=True if the weights are of such a network.')
        return UsageError(
            f'the weights do not fit {arch}: they have gates for norms without gates here ({_some(surplus)}).\n'
            f'Expected plain BatchNorm2d tensors there{what}.\n{advice}')
    return UsageError(
        f'the weights are neither of a BN nor of an IEBN network: {len(have)} norms have gates ({_some(have)}), '
        f'{len(lack)} have none ({_some(lack)}).\n'
        f'Expected gates for all {len(have) + len(lack)} gated norms of {arch}, or for none.\n'
        f'Use a complete checkpoint; if only shortcuts have none, create the model with gate_downsample=False.')


def _arch(model: nn.Module) -> str:
    return getattr(model, 'pretrained_cfg', {}).get('architecture') or type(model).__name__


def _some(names: List[str]) -> str:
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')
