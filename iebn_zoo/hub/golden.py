"""golden.safetensors: two inputs and the logits they gave when the weights were exported.

It travels with the weights, so that anyone can tell whether what was downloaded computes what was trained.
"""
from pathlib import Path
from typing import Optional, Tuple, Union

import safetensors.torch
import timm
import torch

from iebn_zoo.errors import IEBNZooError

GOLDEN = 'golden.safetensors'
# Another CPU, thread count or torch orders the sums differently: about 1e-6 of the largest logit in float32, and more
# in deeper networks. Wrong weights, a random head or a missing gate are off by the size of the logits themselves.
TOLERANCE = 1e-4


def first_line(error: BaseException, length: int = 160) -> str:
    """The first line of an error's text with its kind, short enough to stand inside a message."""
    text = (str(error).strip() or 'no details').splitlines()[0].strip()
    return f'{type(error).__name__}: {text[:length]}'


def read_golden(path: Union[str, Path]) -> Tuple[torch.Tensor, torch.Tensor]:
    """Read ``input`` of shape (B, C, H, W), already normalized, and ``logits`` of shape (B, num_classes).

    Raises:
        IEBNZooError: Not a safetensors file, a tensor is missing, or its shape or values cannot be.
    """
    try:
        tensors = safetensors.torch.load_file(path)
    except Exception as e:
        raise IEBNZooError(f'{path} cannot be read ({first_line(e)}).\nExport the run again.') from e
    missing = [name for name in ('input', 'logits') if name not in tensors]
    if missing:
        raise IEBNZooError(
            f'{path} has no tensor {missing[0]!r}; it holds {sorted(tensors)}.\n'
            f'Expected input (B, C, H, W) and logits (B, num_classes). Export the run again.'
        )
    inputs, logits = tensors['input'], tensors['logits']
    if inputs.ndim != 4 or logits.ndim != 2 or len(inputs) != len(logits) or not len(inputs):
        raise IEBNZooError(
            f'{path} holds input {tuple(inputs.shape)} and logits {tuple(logits.shape)}.\n'
            f'Expected input (B, C, H, W) and logits (B, num_classes). Export the run again.'
        )
    if not (torch.isfinite(inputs).all() and torch.isfinite(logits).all()):
        raise IEBNZooError(f'{path} holds values that are not finite.\nExport a checkpoint that did not diverge.')
    return inputs.float(), logits.float()


def compare(name: str, golden: Union[str, Path], shown: Optional[str] = None) -> float:
    """Load ``name`` through timm and compare its logits with the golden ones, on the CPU in float32.

    Args:
        name: ``'local-dir:DIR'`` or ``'hf-hub:OWNER/NAME@REVISION'``.
        golden: Path of golden.safetensors.
        shown: How to call it in messages, if not ``name``.

    Returns:
        Largest absolute difference, in logits.

    Raises:
        IEBNZooError: It does not load, or computes something else.
    """
    inputs, logits = read_golden(golden)
    shown = shown or name
    try:
        model = timm.create_model(name, pretrained=True).float().eval()
        with torch.inference_mode():
            actual = model(inputs)
    except Exception as e:
        raise IEBNZooError(
            f'{shown} does not load and run through timm ({first_line(e)}).\n'
            f'Expected weights and config.json that belong together. Export the run again.'
        ) from e
    if actual.shape != logits.shape:
        raise IEBNZooError(
            f'{shown} gives logits of shape {tuple(actual.shape)}, golden.safetensors has {tuple(logits.shape)}.\n'
            f'Expected files of one export. Export the run again.'
        )
    difference = (actual - logits).abs().max().item()
    allowed = TOLERANCE * max(logits.abs().max().item(), 1e-3)
    if not difference <= allowed:
        raise IEBNZooError(
            f'{shown} does not compute the logits in golden.safetensors: they differ by {difference:.3g}, '
            f'at most {allowed:.3g} is rounding.\n'
            f'Expected weights, config.json and golden.safetensors of one export. Export the run again.'
        )
    return difference
