"""A digest of what a checkpoint holds: torch.load notices a truncated file, but not a flipped bit."""
import hashlib
from collections.abc import Mapping
from typing import Any

import torch


def content_digest(value: Any) -> str:
    """Return the hex SHA-256 over nested dicts, lists, tuples, tensors and plain values.

    Tensors count by dtype, shape and values, not by device or memory format; the order of keys counts.
    """
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f'tensor {value.dtype} {tuple(value.shape)};'.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        digest.update(f'dict {len(value)};'.encode())
        for key, item in value.items():
            _feed(digest, key)
            _feed(digest, item)
    elif isinstance(value, (list, tuple)):
        digest.update(f'{"list" if isinstance(value, list) else "tuple"} {len(value)};'.encode())
        for item in value:
            _feed(digest, item)
    else:
        text = f'{type(value).__name__} {value!r}'.encode('utf-8', 'surrogatepass')
        digest.update(f'{len(text)} '.encode() + text + b';')
