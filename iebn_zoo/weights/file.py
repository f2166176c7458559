"""Reads a file of weights of any kind without running code in it: the one reader, which every command uses.

safetensors; a training checkpoint of ours; what timm's CheckpointSaver or the paper's reference code writes; a plain
state dict, bare or as ``{'state_dict': ...}`` or ``{'model': ...}``.
"""
import argparse
import pickle
import pickletools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Union

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from iebn_zoo.models.bn_checkpoint import current_name
from iebn_zoo.util.errors import IEBNZooError, UsageError, first_line
from iebn_zoo.weights.arguments import check_arguments
from iebn_zoo.weights.checksum import content_digest
from iebn_zoo.weights.settings import FLAGS, check_settings, label_names_of
from iebn_zoo.weights.tensors import check_tensors, without_wrappers

SCHEMA = 1  # raise it when a field that a resume needs changes its meaning
REQUIRED = ('arch', 'model_args', 'state_dict', 'epoch')  # keys of a checkpoint of ours
_MARKS = ('schema', 'checksum')
_STATES, _AVERAGES = ('state_dict', 'model'), ('state_dict_ema', 'model_ema')
# how torch's reader of plain values refuses anything else; a damaged file may give the same error
_CODE = re.compile(r'Unsupported (?:global|class)|GLOBAL |unrecognized (?:function|class)|not an allowed')
_NAME = re.compile(r'(?:GLOBAL|class|function|instance of) ([\w.]+\.\w+)')


class DamagedError(IEBNZooError):
    """A checkpoint's content is truncated or altered."""


class CodeError(DamagedError):
    """A file names code to be run; a damaged one may seem to."""


@dataclass(frozen=True)
class WeightsFile:
    """What such a file says.

    Attributes:
        path: The file.
        kind: The kind of the file, in words.
        state_dict: Dense, finite tensors of real numbers, as they were saved, without the prefixes of DDP and
            torch.compile.
        content: Everything in a checkpoint of ours; {} for another file.
        arch: timm name, or None where the file does not tell.
        model_args: Arguments of the architecture, as far as the file tells.
        data_config: Input settings of our training, or None.
        settings: Flags of timm's training that set input settings.
        label_names: Names of the classes in order, or None.
    """

    path: Path
    kind: str
    state_dict: Dict[str, Tensor]
    content: Dict[str, Any] = field(default_factory=dict)
    arch: Optional[str] = None
    model_args: Dict[str, Any] = field(default_factory=dict)
    data_config: Optional[Dict[str, Any]] = None
    settings: Dict[str, Any] = field(default_factory=dict)
    label_names: Optional[List[str]] = None


def read_weights_file(path: Union[str, Path], use_ema: bool = False) -> WeightsFile:
    """Read a file of weights and check everything that can be checked without a network.

    Args:
        path: The file.
        use_ema: Take the EMA weights.

    Raises:
        UsageError: There is no such file, or it has no EMA weights.
        DamagedError: It is truncated, altered, or holds code, which is not run.
        IEBNZooError: It cannot be read, holds no state dict, or has weights that are not finite real numbers, or
            impossible arguments or settings.
    """
    path = Path(path)
    content = read_content(path)
    if not isinstance(content, dict):
        raise IEBNZooError(
            f'{path} holds a {type(content).__name__}.\nExpected a state dict, or a checkpoint with one.')
    state = state_dict_of(content, str(path), use_ema)
    ours = is_ours(content)
    options = content.get('args')
    options = vars(options) if isinstance(options, argparse.Namespace) else {}
    data_config = content.get('data_config')
    data_config = data_config if isinstance(data_config, dict) else None
    check_settings(data_config or {}, f'{path}: data_config')
    check_settings({k: options.get(k) for k in FLAGS}, f'{path}: args')
    named = content.get('arch')
    arch = named if isinstance(named, str) and timm.is_model(named.split('.')[0]) else None
    if ours and arch is None:
        raise IEBNZooError(f'cannot create {str(named)[:80]}, which {path} is of: no such architecture.\n'
                           f'Use the versions that trained it.')
    model_args = content.get('model_args') or options.get('model_kwargs') or {}
    check_arguments((arch or '').split('.')[0], model_args, f'{path}: model_args')
    pool = options.get('gp')  # the flag by timm's name; its network takes it as global_pool
    more = {'global_pool': pool} if isinstance(pool, str) else {}
    return WeightsFile(
        path, _kind(path, content), state, content if ours else {}, arch,
        {**more, **model_args}, data_config, {k: options[k] for k in FLAGS if options.get(k) is not None},
        label_names_of(content, path))


def read_content(path: Union[str, Path]) -> Any:
    """Read the tensors and plain values in a file; verify schema and checksum of a checkpoint of ours.

    Raises:
        UsageError: There is no such file.
        DamagedError: It is truncated, altered, or holds code, which is not run.
        IEBNZooError: It cannot be read, does not fit in memory, or is of a newer version.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UsageError(f'no checkpoint at {path}.\n'
                             f'Expected a file of weights: .safetensors, .pth, or .pth.tar such as last.pth.tar.')
        with open(path, 'rb'):  # safetensors says of a file that must not be read that there is none
            pass
        if _is_safetensors(path):
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm saves its flags as one
            content = torch.load(path, map_location='cpu', weights_only=True)
    except UsageError:
        raise
    except Exception as e:  # torch.load raises a dozen types for a damaged file
        raise _unreadable(path, e) from e
    if isinstance(content, dict):
        verify(content, path)
        if is_ours(content) and isinstance(content['arch'], str) and isinstance(content['state_dict'], dict):
            old = content['arch']
            content['arch'] = current_name(old, content['state_dict'], content['model_args'])
            flags = content.get('args')
            if isinstance(flags, dict) and flags.get('model') == old:
                flags['model'] = content['arch']
    return content


def is_ours(content: Mapping[str, Any]) -> bool:
    """Tell whether a file is a checkpoint of our training."""
    return all(key in content for key in REQUIRED) and isinstance(content['model_args'], dict)


def verify(content: Dict[str, Any], path: Path) -> None:
    """Verify schema and checksum if ``content`` is a checkpoint of ours, and take the checksum out of it.

    Raises:
        DamagedError: The content does not match its checksum.
        IEBNZooError: It is of a newer version.
    """
    # a damaged file may lack two of the six names and still counts as a checkpoint
    if sum(key in content for key in (*REQUIRED, *_MARKS)) < 4 or not any(mark in content for mark in _MARKS):
        return
    schema, checksum = content.get('schema', 0), content.pop('checksum', None)
    if isinstance(schema, int) and schema > SCHEMA:
        raise IEBNZooError(
            f'{path} has schema {schema}; this iebn-zoo reads up to {SCHEMA}.\nUse a newer iebn-zoo.')
    try:
        whole = checksum == content_digest(content)
    except Exception:  # a value that no checkpoint of ours holds
        whole = False
    if not whole:
        raise DamagedError(
            f'the checkpoint {path} is damaged: its content does not have the checksum that was written with it.\n'
            f'Use another one of the run, such as model_best.pth.tar or checkpoint-N.pth.tar.')


def state_dict_of(content: Mapping[str, Any], source: str, use_ema: bool = False) -> Dict[str, Tensor]:
    """Return the tensors in the content of a file, checked and without the prefixes of wrappers.

    Args:
        content: A state dict, or a dict with one as ``state_dict`` or ``model``.
        source: Where the content is from, for messages.
        use_ema: Take the EMA weights.

    Raises:
        UsageError: It has no EMA weights.
        IEBNZooError: It has no tensors by name, or some are not finite real numbers.
    """
    keys = _AVERAGES if use_ema else _STATES
    found = next((content[key] for key in keys if isinstance(content.get(key), Mapping)), None)
    if found is None and use_ema:
        raise UsageError(f'{source} has no EMA weights.\nTrain with --model-ema, or leave out --use-ema.')
    state = content if found is None else found
    foreign = next((k for k, v in state.items() if not isinstance(k, str) or not isinstance(v, Tensor)), None)
    if foreign is not None or not state:
        what = 'is empty' if foreign is None else f'has {foreign!r}, a {type(state[foreign]).__name__}'
        what += '' if foreign is None or isinstance(foreign, str) else f', under a {type(foreign).__name__}'
        raise IEBNZooError(f'{source} holds no state dict: it {what[:200]}.\n'
                           f'Expected tensors by name, or a checkpoint with a state_dict of them.')
    state = without_wrappers(state, source)
    check_tensors(state, source)
    return state


def _kind(path: Path, content: Mapping[str, Any]) -> str:
    if _is_safetensors(path):
        return 'safetensors'
    if is_ours(content):
        return f"checkpoint, epoch {content['epoch']}"
    if 'arch' in content and 'version' in content:
        return "timm's checkpoint"
    return 'checkpoint' if any(isinstance(content.get(key), Mapping) for key in _STATES) else 'state dict'


def _is_safetensors(path: Path) -> bool:
    if path.suffix == '.safetensors':
        return True
    with open(path, 'rb') as file:  # a safetensors file of another name begins with the length of a header, then JSON
        head = file.read(9)
    return head[8:] == b'{' and int.from_bytes(head[:8], 'little') < path.stat().st_size


def _unreadable(path: Path, e: Exception) -> IEBNZooError:
    reason = _not_its_fault(e)
    if reason is not None:
        return IEBNZooError(f'cannot read the checkpoint {path}: {reason}.\n'
                            f'The file was left unchanged and may be whole. Remove the cause and try again.')
    if _is_text(path):
        return DamagedError(f'cannot read the checkpoint {path}: it is a text file.\n'
                            f'Expected a file of weights: .safetensors, .pth, or .pth.tar such as last.pth.tar.')
    match = _NAME.search(str(e)) if _CODE.search(str(e)) else None
    name = match[1] if match else _named_in_pickle(path)
    if name or _CODE.search(str(e)):
        return CodeError(
            f'the checkpoint {path} was refused because it holds code{f" ({name[:80]})" if name else ""}, which was '
            f'not run; if it should not, it is damaged.\n'
            f'Expected tensors and plain values: save the state dict alone, or use another file of the run.')
    # torch's message for a pickle begins with the advice to trust it
    said = type(e).__name__ + ('' if isinstance(e, pickle.UnpicklingError) else f': {first_line(e, 120)}')
    return DamagedError(
        f'cannot read the checkpoint {path}: it is truncated, damaged or no checkpoint ({said}).\n'
        f'Use another one, such as model_best.pth.tar or checkpoint-N.pth.tar of a run, or copy it again.')


def _is_text(path: Path) -> bool:
    # the first letters of a text are pickle's words for code; a pickle of protocol 0 is letters too, and ends with one
    try:
        with open(path, 'rb') as file:
            content = file.read(1 << 20)
        content.decode('utf-8')
    except (OSError, UnicodeDecodeError):
        return False
    try:
        for _ in pickletools.genops(content):
            pass
        return False
    except Exception:  # it is no pickle
        return bool(content) and b'\0' not in content


def _named_in_pickle(path: Path) -> Optional[str]:
    """Return what a bare pickle would call, without loading it; torch's reader may fail to parse such a file."""
    strings: List[str] = []
    try:
        with open(path, 'rb') as file:
            if file.read(1) != b'\x80':
                return None
            file.seek(0)
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in ('GLOBAL', 'INST', 'STACK_GLOBAL'):
                    name = '.'.join(strings[-2:]) if argument is None else str(argument).replace(' ', '.')
                    if not name.startswith(('collections.', 'torch._utils.')):
                        return name
                elif isinstance(argument, str):
                    strings = [*strings[-1:], argument]
    except Exception:  # it is no pickle
        return None
    return None


def _not_its_fault(e: BaseException) -> Optional[str]:
    # errors that are not the file's fault; torch's allocator raises a RuntimeError
    if isinstance(e, OSError) and e.errno is not None:
        return e.strerror or str(e)
    if isinstance(e, MemoryError) or "can't allocate memory" in str(e) or 'not enough memory' in str(e):
        return 'not enough memory'
    return None
