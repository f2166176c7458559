"""Which arguments of a network a stranger's file may set: plain values of the architecture, and nothing else.

``timm.create_model`` takes arguments of three kinds under one roof: of the architecture (``layers``, ``img_size``), of
loading (``pretrained``, ``cache_dir``, ``pretrained_cfg_overlay``: they download any URL into any directory) and of the
way a network is wrapped (``features_only``). A checkpoint or a config.json may speak of the first alone.
"""
import dataclasses
import inspect
import math
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, FrozenSet, Iterator, Optional, Set, Type

from timm.models import is_model, model_entrypoint
from torch import nn

from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.weights.settings import shortened

# every family of timm takes these, or passes them on as ``**kwargs``
_COMMON = frozenset((
    'num_classes', 'in_chans', 'global_pool', 'drop_rate', 'drop_path_rate', 'drop_block_rate', 'img_size', 'bn_tf',
    'bn_eps', 'bn_momentum'))
# arguments that load, download, point to a place, or make something else of the network than a classifier
_REFUSED = frozenset((
    'cache_dir', 'checkpoint_path', 'custom_load', 'url', 'file', 'path', 'filename', 'source', 'state_dict', 'weights',
    'cfg', 'cfgs', 'default_cfg', 'model_cfg', 'model_cls', 'model_name', 'variant', 'pruned', 'kwargs_filter',
    'features_only', 'feature_cfg', 'feature_cls', 'feature_location', 'out_indices', 'scriptable', 'exportable',
    'no_jit', 'device', 'dtype'))
_REFUSED_PREFIXES = ('pretrained', 'hf_hub', 'checkpoint_', 'cache_')
# the window sizes of the training of Swin V2's weights are numbers
_HARMLESS = frozenset(('pretrained_window_size', 'pretrained_window_sizes'))
# MaxxViT passes arguments with these prefixes to its two kinds of blocks
_HANDED_ON = ('transformer_', 'conv_')
_TEXT = re.compile(r'[\w.,+\- ]{0,100}')  # names of layers and modes; never a path or an address
_LARGEST = 10**7
# larger networks take hours to build; the deepest published ones have some hundred blocks
_LIMITS = {**dict.fromkeys(('layers', 'depths', 'depth', 'num_layers', 'num_blocks'), 1000), 'img_size': 8192}
_LONGEST, _DEEPEST = 1000, 4


def check_arguments(architecture: str, arguments: Any, where: str, own: bool = False) -> None:
    """Check that ``arguments`` only say how to build ``architecture``.

    Args:
        architecture: Registered name, without a tag.
        arguments: Its arguments by name, from a file or from a user.
        where: The place of the arguments, for the message: ``'last.pth.tar: model_args'``.
        own: The user gave the arguments, on the command line or in a recipe.

    Raises:
        UsageError: An argument of the user loads, downloads or points to a place, is unknown, or is no plain value.
        IEBNZooError: The same is true of an argument in a file.
    """
    error: Type[IEBNZooError] = UsageError if own else IEBNZooError
    if not isinstance(arguments, Mapping):
        raise error(f'{where} is {shortened(arguments)}.\nExpected arguments of the architecture by name.')
    odd = next((name for name in arguments if not isinstance(name, str)), None)
    if odd is not None:
        raise error(f'{where} is {shortened(arguments)}.\nExpected arguments by name, not by {type(odd).__name__}.')
    known = architecture_arguments(architecture)
    for name, value in arguments.items():
        if is_refused(name):
            raise error(
                f'{where} sets {shortened(name)}, which loads, downloads, points to a place or wraps the network: '
                f'refused.\nExpected arguments of the architecture alone, such as num_classes or layers.')
        if known is not None and not _is_known(name, known):
            raise error(f'{where} sets {shortened(name)}, which is no argument of {architecture}.\n'
                        f'Expected arguments of the architecture, such as num_classes or layers.')
        if not _is_plain(value):
            raise error(f'{where} sets {name} to {shortened(value)}.\n'
                        f'Expected a plain value: a number, true or false, the name of a layer, or a list of them.')
        if name in _LIMITS and _total(value) > _LIMITS[name]:
            raise error(f'{where} sets {name} to {shortened(value)}.\nExpected at most {_LIMITS[name]} in all.')


def is_refused(name: str) -> bool:
    """Tell whether an argument of this name loads, downloads, points to a place, or wraps the network."""
    if name in _HARMLESS:
        return False
    return name in _REFUSED or name.startswith(_REFUSED_PREFIXES)


@cache
def architecture_arguments(architecture: str) -> Optional[FrozenSet[str]]:
    """Return the names of the arguments that the classes and builders of an architecture's module take.

    Args:
        architecture: Registered name, without a tag.

    Returns:
        The names, without the refused ones; None where there is no such architecture.
    """
    if not is_model(architecture):
        return None
    module = sys.modules[model_entrypoint(architecture).__module__]
    names: Set[str] = set(_COMMON)
    for value in vars(module).values():
        if inspect.isclass(value) and (issubclass(value, nn.Module) or dataclasses.is_dataclass(value)):
            for cls in value.__mro__:
                names.update(_parameters(cls.__dict__.get('__init__')) if not _is_torchs(cls) else ())
        elif inspect.isfunction(value) and value.__name__.startswith(('_create', '_gen')):
            names.update(_parameters(value))
    return frozenset(name for name in names - {'self'} if not is_refused(name))


def _is_torchs(cls: type) -> bool:
    return cls is object or cls.__module__.split('.')[0] == 'torch'


def _parameters(function: Any) -> Iterator[str]:
    if not inspect.isfunction(function):
        return
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            yield parameter.name


def _is_known(name: str, known: FrozenSet[str]) -> bool:
    return name in known or any(name.startswith(p) and name[len(p):] in known for p in _HANDED_ON)


def _total(value: Any) -> float:
    if isinstance(value, (list, tuple)):
        return sum(map(_total, value))
    return value if isinstance(value, (int, float)) else 0


def _is_plain(value: Any, depth: int = 0) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int):
        return abs(value) <= _LARGEST
    if isinstance(value, float):
        return math.isfinite(value) and abs(value) <= _LARGEST
    if isinstance(value, str):
        return _TEXT.fullmatch(value) is not None
    if depth >= _DEEPEST or not isinstance(value, (list, tuple, dict)) or len(value) > _LONGEST:
        return False
    if isinstance(value, dict):  # some families take the arguments of their blocks as a dict
        return all(isinstance(k, str) and not is_refused(k) and _is_plain(v, depth + 1) for k, v in value.items())
    return all(_is_plain(v, depth + 1) for v in value)
