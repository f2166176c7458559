"""The evaluation: loss, top-1 and top-5, counted in images."""
from contextlib import nullcontext
from typing import Any, Callable, ContextManager, Dict, Iterable, Optional

import torch
import torch.nn.functional as F
from torch import distributed as dist
from torch import nn

from iebn_zoo._compat import has_bfloat16_instructions
from iebn_zoo.training.config.settings import DeviceSettings
from iebn_zoo.training.engine.stop import Stopped
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.progress import Progress

_LEFT_OUT = -100  # cross_entropy skips this target
_SHOWN_EVERY = 20  # batches between two readings for the progress bar, on a device


def autocast(args: DeviceSettings, device: torch.device) -> ContextManager:
    """Make the autocast context that ``--amp`` and ``--amp-dtype`` ask for."""
    if not args.amp:
        return nullcontext()
    # a CUDA graph would keep the cast weights of one replay for the next, after the update
    cached = not getattr(args, 'cuda_graph', False)
    return torch.autocast(device.type, getattr(torch, args.amp_dtype), cache_enabled=cached)


def note_on_amp(args: DeviceSettings, device: torch.device) -> Optional[str]:
    """Return what to tell someone who asks for ``--amp`` on a processor that lacks bfloat16, otherwise None."""
    if device.type != 'cpu' or not args.amp or args.amp_dtype != 'bfloat16' or has_bfloat16_instructions() is not False:
        return None
    return ('note: --amp: this processor has no instructions for bfloat16 (AVX512_BF16 or AMX), and is probably faster '
            'in float32; --no-amp, or amp: false in a recipe, switches it off')


@torch.no_grad()
def evaluate(
        model: nn.Module,
        loader: Iterable,
        args: DeviceSettings,
        device: torch.device,
        title: str = 'eval',
        distributed: bool = False,
        stop: Optional[Callable[[], Optional[int]]] = None,
        observe: Optional[Callable[[torch.Tensor, torch.Tensor], None]] = None,
) -> Dict[str, float]:
    """Measure a model in eval mode on every image of all processes.

    Args:
        model: (B, C, H, W) -> (B, classes).
        loader: Yields (images, targets); an image with a negative target is skipped.
        args: The flags.
        device: The device of the model.
        title: What the progress calls this pass.
        distributed: Sum over the process group.
        stop: Called after each batch: returns the number of what stops the evaluation, or None.
        observe: Called with the logits (B, classes) and targets (B,) of each batch of this process.

    Returns:
        ``loss`` (mean cross-entropy), ``top1``, ``top5`` (percent), ``top1_count``, ``top5_count``, ``count``.

    Raises:
        Stopped: ``stop`` has returned a number.
        IEBNZooError: There is no image that could be decoded.
    """
    was_training = model.training
    model.eval()
    # they stay on the device until the end: to read them would wait for the GPU in each batch
    loss = torch.zeros((), dtype=torch.float32 if device.type == 'mps' else torch.float64, device=device)
    counts = torch.zeros(3, dtype=torch.int64, device=device)  # top-1, top-5, images
    progress = Progress(loader, title)
    every = 1 if device.type == 'cpu' else _SHOWN_EVERY
    for number, (images, targets) in enumerate(progress, 1):
        if args.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast(args, device):
            logits = model(images)
        logits = logits.float()
        if observe is not None:
            observe(logits, targets)
        known = targets >= 0
        # an unknown target counts nowhere: -1 is none of the five classes
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
        loss += F.cross_entropy(logits, targets.where(known, _LEFT_OUT), ignore_index=_LEFT_OUT, reduction='sum')
        counts += torch.stack([top[:, :1].sum(), top.sum(), known.sum()])
        received = None if stop is None else stop()
        if received is not None:
            raise Stopped(received, saved=False)
        if progress.live and number % every == 0:
            progress.show(top1=f'{100 * int(counts[0]) / max(1, int(counts[2])):.2f}')
    if was_training:
        model.train()
    if distributed:
        dist.all_reduce(loss)
        dist.all_reduce(counts)
    loss, (top1, top5, count) = float(loss), counts.tolist()
    if count == 0:
        raise IEBNZooError('none of the images to evaluate on could be decoded.\nCheck --data-dir.')
    return dict(loss=loss / count, top1=100 * top1 / count, top5=100 * top5 / count, top1_count=top1,
                top5_count=top5, count=count)


def metrics_line(metrics: Dict[str, Any], prefix: Optional[str] = None) -> str:
    """Write the metrics as ``top-1 66.62 (6662/10000)  top-5 ...``."""
    start = f'{prefix} ' if prefix else ''
    return (f"{start}top-1 {metrics['top1']:.2f} ({metrics['top1_count']}/{metrics['count']})  "
            f"top-5 {metrics['top5']:.2f} ({metrics['top5_count']}/{metrics['count']})  loss {metrics['loss']:.4f}")
