"""Checkpoints: files that hold the whole state of a run, written atomically and read by ``iebn_zoo.weights.file``."""
import errno
import os
from collections.abc import Mapping as MappingType
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Union

import torch

from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.files import atomic_write
from iebn_zoo.weights.checksum import content_digest
from iebn_zoo.weights.file import REQUIRED, SCHEMA, DamagedError, read_content
from iebn_zoo.weights.fit import load_weights, without_other_head

__all__ = ['BEST', 'LAST', 'PREVIOUS', 'RECOVERY', 'SCHEMA', 'DamagedError', 'load_checkpoint', 'load_weights',
           'save_checkpoint', 'without_other_head']

LAST = 'last.pth.tar'
BEST = 'model_best.pth.tar'
PREVIOUS = 'previous.pth.tar'
RECOVERY = 'recovery.pth.tar'


def save_checkpoint(
        path: Union[str, Path],
        checkpoint: Mapping[str, Any],
        before_replace: Optional[Callable[[], None]] = None,
) -> None:
    """Write a checkpoint so that ``path`` holds the old or the new one, never a part.

    Args:
        path: The file to write.
        checkpoint: Tensors and plain values; the fields ``schema`` and ``checksum`` are added.
        before_replace: Called when the new content is safely on disk and ``path`` still holds the old one.

    Raises:
        IEBNZooError: The file cannot be written; ``path`` is as it was.
    """
    content = _on_cpu(dict(checkpoint, schema=SCHEMA))
    content.pop('checksum', None)
    content['checksum'] = content_digest(content)
    with atomic_write(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as e:  # torch's zip writer hides the error of the system
            cause = e.__context__ if isinstance(e.__context__, OSError) else None
            raise cause or OSError(errno.EIO, 'the write failed') from e
        if before_replace is not None:
            file.flush()
            os.fsync(file.fileno())
            before_replace()


def load_checkpoint(path: Union[str, Path]) -> Dict[str, Any]:
    """Read a training checkpoint (tensors and plain values, no code) and verify its schema and checksum.

    Args:
        path: The file to read.

    Returns:
        A dict with at least ``arch``, ``model_args``, ``state_dict`` and ``epoch``. A file of an earlier version may
        have no ``schema``; it has no checksum to verify.

    Raises:
        UsageError: There is no such file.
        DamagedError: The content is truncated or altered, or it holds code.
        IEBNZooError: The file cannot be read or does not fit into memory, or is of a newer version or no checkpoint.
    """
    checkpoint = read_content(path)
    lacking = [k for k in REQUIRED if not isinstance(checkpoint, dict) or k not in checkpoint]
    if lacking:
        raise IEBNZooError(
            f'{path} is no checkpoint of a training run: it has no {lacking[0]!r}.\n'
            f'Expected a file written by training, such as {LAST}.')
    return checkpoint


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, MappingType):
        return {k: _on_cpu(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_cpu(v) for v in value)
    return value
