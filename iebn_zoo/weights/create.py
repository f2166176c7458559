"""``timm.create_model`` whose errors are messages, and which checks the arguments before it builds."""
import difflib
from typing import Any, Dict, Mapping, Optional, Tuple

import timm
import torch
from torch import Tensor, nn

import iebn_zoo  # noqa: F401  registers the models
from iebn_zoo.util.errors import IEBNZooError, UsageError, first_line
from iebn_zoo.util.hub_token import harmless, hide
from iebn_zoo.util.places import canonical_name
from iebn_zoo.weights.arguments import check_arguments
from iebn_zoo.weights.settings import shortened

LOCAL_DIR, HF_HUB = 'local-dir', 'hf-hub'
_ALLOWANCE = 1 << 27  # numbers; they take half a GB
# what timm's networks raise for arguments that they do not take
_ARGUMENT_ERRORS = (TypeError, ValueError, AssertionError, AttributeError, IndexError, KeyError, ZeroDivisionError,
                    NotImplementedError, OverflowError)


def split_name(name: str) -> Tuple[Optional[str], str]:
    """Return ``('local-dir', DIR)``, ``('hf-hub', ID)``, or ``(None, NAME)`` for a registered name.

    Raises:
        UsageError: The prefix is another one, or nothing follows it.
    """
    source, colon, place = canonical_name(name).partition(':')
    if not colon and not any(c in name for c in '/\\'):
        return None, name
    if not colon or source not in (LOCAL_DIR, HF_HUB) or not place:
        raise UsageError(f'unknown model {name!r}.\n'
                         f'Expected a registered name, {LOCAL_DIR}:DIR or {HF_HUB}:OWNER/NAME.')
    return source, place


def check_name(name: str, pretrained: bool = False) -> str:
    """Return the architecture of a registered name.

    Args:
        name: Registered name, with or without a tag.
        pretrained: The name must have weights.

    Raises:
        UsageError: timm does not know it, or has no weights for it; the message names similar ones.
    """
    arch = name.split('.')[0]
    if not timm.is_model(arch):
        near = difflib.get_close_matches(arch, timm.list_models(), n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else "timm.list_models('iebn_*') lists ours."
        raise UsageError(f'unknown model {name!r}.\n{hint}')
    if pretrained and not timm.is_model_pretrained(name):
        near = difflib.get_close_matches(name, timm.list_pretrained(arch), n=3, cutoff=0)
        hint = f"Did you mean {' or '.join(near)}?" if near else (
            'Leave out --pretrained to start from scratch, or name a checkpoint, a local-dir: or an hf-hub: model.')
        raise UsageError(f'there are no pretrained weights for {name}.\n{hint}')
    return arch


def is_of_zoo(name: str) -> bool:
    """Say whether a registered name, with or without a tag, is of a network of this package."""
    arch = name.split('.')[0]
    return timm.is_model(arch) and timm.model_entrypoint(arch).__module__.startswith('iebn_zoo.')


def create_model(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Create a network by its registered name.

    Args:
        name: Registered name. ``local-dir:`` and ``hf-hub:`` are opened by ``iebn_zoo.weights.open_model``.
        pretrained: Load the weights of the name.
        **kwargs: Arguments of the architecture; None counts as not given.

    Raises:
        UsageError: The name is unknown or has no weights, or the network does not take the arguments.
        IEBNZooError: The weights cannot be loaded.
    """
    if ':' in name:
        from iebn_zoo.weights.repository import create_from_repository
        return create_from_repository(name, pretrained, kwargs)
    arch = check_name(name, pretrained)
    check_arguments(arch, kwargs, f'the arguments of {name}', own=True)
    return build(name, name, pretrained, kwargs)


def build(name: str, shown: str, pretrained: bool, kwargs: Dict[str, Any]) -> nn.Module:
    """Call ``timm.create_model`` with checked arguments, and turn its errors into messages.

    Raises:
        UsageError: The network does not take the arguments.
        IEBNZooError: The weights cannot be loaded.
    """
    try:
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except IEBNZooError:
        raise
    except _ARGUMENT_ERRORS as e:
        raise UsageError(f'cannot create {shown}: {_said(e)}\nCheck the model name and its arguments.') from e
    except Exception as e:  # torch, safetensors and the client of the Hub each have types of their own
        raise IEBNZooError(
            f'cannot load {shown}: {hide(_said(e))}\nCheck the files, the name and the network.') from harmless(e)


def check_size(architecture: str, arguments: Mapping[str, Any], state_dict: Mapping[str, Tensor], source: str) -> None:
    """Raise IEBNZooError if a file's arguments ask for a network far larger than its weights.

    A few bytes of arguments may ask for more than all memory, so the network is first made without any.
    """
    try:
        with torch.device('meta'):
            model = timm.create_model(architecture, **arguments)
    except Exception:  # not every family can be made on meta; building the real network will raise the error
        return
    size, found = (sum(t.numel() for t in state.values()) for state in (model.state_dict(), state_dict))
    if size > 4 * found + _ALLOWANCE:
        raise IEBNZooError(f'{source}: its arguments {shortened(dict(arguments))} make a network of {size:,} numbers, '
                           f'and it holds {found:,}.\nExpected the arguments that the weights were trained with.')


def _said(e: BaseException) -> str:
    if 'loading state_dict' in str(e):  # torch names the keys after the first line
        return first_line(Exception(' '.join(str(e).split())))
    return f'it has no {first_line(e)}' if isinstance(e, KeyError) else first_line(e)
