"""THE checkpoint: one file that holds a whole run's state, written atomically, read without unpickling code."""
import errno
import os
from collections.abc import Mapping as MappingType
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Union

import torch

from iebn_zoo.errors import IEBNZooError, UsageError
from iebn_zoo.files import atomic_write
from iebn_zoo.training.checksum import content_digest

SCHEMA = 1  # of the fields that a resume needs; to be raised when they change their meaning
LAST = 'last.pth.tar'
BEST = 'model_best.pth.tar'
PREVIOUS = 'previous.pth.tar'
RECOVERY = 'recovery.pth.tar'
_REQUIRED = ('arch', 'model_args', 'state_dict', 'epoch')


class DamagedError(IEBNZooError):
    """A checkpoint's content is truncated or altered."""


def save_checkpoint(
        path: Union[str, Path],
        checkpoint: Mapping[str, Any],
        before_replace: Optional[Callable[[], None]] = None,
) -> None:
    """Write a checkpoint so that ``path`` holds the old or the new one, never a part.

    Args:
        path: File to write. It gets the fields ``schema`` and ``checksum``.
        checkpoint: Tensors and plain values.
        before_replace: Called when the new content is safely on disk and ``path`` still holds the old one.

    Raises:
        IEBNZooError: It could not be written; ``path`` is as it was.
    """
    content = _on_cpu(dict(checkpoint, schema=SCHEMA))
    content.pop('checksum', None)
    content['checksum'] = content_digest(content)
    with atomic_write(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as e:  # torch's zip writer has its own words for a write that failed
            cause = e.__context__ if isinstance(e.__context__, OSError) else None
            raise cause or OSError(errno.EIO, 'the write failed') from e
        if before_replace is not None:
            file.flush()
            os.fsync(file.fileno())
            before_replace()


def load_checkpoint(path: Union[str, Path], own: bool = True) -> Dict[str, Any]:
    """Read a training checkpoint (``weights_only``: tensors and plain values, no code) and verify its checksum.

    Args:
        path: File to read.
        own: False also takes a file of other code: any dict, such as a state dict.

    Returns:
        A dict, of ours with at least ``arch``, ``model_args``, ``state_dict`` and ``epoch``. One that was written
        before there was a schema has no ``schema``, and no checksum is verified.

    Raises:
        UsageError: There is no such file.
        DamagedError: Its content is truncated or altered.
        IEBNZooError: It may not be read, does not fit in memory, is of a newer version or not one of our checkpoints.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UsageError(f'no checkpoint at {path}.\nExpected a file such as {LAST}, written by training.')
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except UsageError:
        raise
    except Exception as e:  # torch.load raises a dozen types for a damaged file
        reason = _not_its_fault(e)
        if reason is not None:
            raise IEBNZooError(f'cannot read the checkpoint {path}: {reason}.\n'
                               f'The file may be whole and is left as it is; try again when that is mended.') from e
        raise DamagedError(
            f'cannot read the checkpoint {path}: it is truncated, damaged or no checkpoint ({type(e).__name__}).\n'
            f'Use another one of the run, such as {BEST} or checkpoint-N.pth.tar.') from e
    lacking = [k for k in _REQUIRED if not isinstance(checkpoint, dict) or (own and k not in checkpoint)]
    if lacking:
        raise IEBNZooError(
            f'{path} is no checkpoint of a training run: it has no {lacking[0]!r}.\n'
            f'Expected a file written by training, such as {LAST}.')
    if checkpoint.get('schema', 0) > SCHEMA:
        raise IEBNZooError(
            f"{path} has schema {checkpoint['schema']}; this iebn-zoo reads up to {SCHEMA}.\nUse a newer iebn-zoo.")
    checksum = checkpoint.pop('checksum', None)
    if (checksum is not None or 'schema' in checkpoint) and checksum != content_digest(checkpoint):
        raise DamagedError(
            f'the checkpoint {path} is damaged: its content does not have the checksum that was written with it.\n'
            f'Use another one of the run, such as {BEST} or checkpoint-N.pth.tar.')
    return checkpoint


def _not_its_fault(e: BaseException) -> Optional[str]:
    # what keeps a whole file from being read; torch's allocator says it in a RuntimeError
    if isinstance(e, OSError) and e.errno is not None:
        return e.strerror or str(e)
    if isinstance(e, MemoryError) or "can't allocate memory" in str(e) or 'not enough memory' in str(e):
        return 'not enough memory'
    return None


def without_other_head(model: torch.nn.Module, state_dict: Mapping[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """``state_dict`` with the new head of ``model`` where the checkpoint's is for another number of classes."""
    own = model.state_dict()
    heads = model.pretrained_cfg.get('classifier') or ()
    prefixes = tuple(f'{head}.' for head in ((heads,) if isinstance(heads, str) else heads))
    return {k: own[k] if k.startswith(prefixes) and k in own and own[k].shape != v.shape else v
            for k, v in state_dict.items()}


def load_weights(model: torch.nn.Module, state_dict: Mapping[str, torch.Tensor], source: str) -> None:
    """Strict ``load_state_dict`` whose error names the first key that does not fit.

    Raises:
        IEBNZooError: A tensor is missing, foreign or of another shape.
    """
    own = model.state_dict()
    problems: List[str] = [f'lacks {k!r}' for k in own if k not in state_dict]
    problems += [f'has an unknown {k!r}' for k in state_dict if k not in own]
    problems += [f'has {k!r} as {tuple(state_dict[k].shape)}, not {tuple(v.shape)}'
                 for k, v in own.items() if k in state_dict and state_dict[k].shape != v.shape]
    if problems:
        raise IEBNZooError(
            f'the weights in {source} are of another model: it {problems[0]} ({len(problems)} differences).\n'
            f'Name the model, and the number of classes and channels, that the weights were trained with.')
    model.load_state_dict(state_dict)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, MappingType):
        return {k: _on_cpu(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_cpu(v) for v in value)
    return value
