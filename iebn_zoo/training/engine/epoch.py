"""One epoch of training, which can begin at any update."""
import math
import time
from dataclasses import dataclass
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch

from iebn_zoo.data.loader import BatchLoader
from iebn_zoo.training.callbacks.base import Extension
from iebn_zoo.training.engine.stop import DEADLINE, Stopped, StopSignals
from iebn_zoo.training.engine.update import Trainer
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.progress import Progress

_SIGNALS = DEADLINE + 1  # the numbers of the signals, from 0, and the deadline after them
Span = Tuple[int, int, int]  # epoch, first and last batch


@dataclass
class Position:
    """A point of a run between two updates.

    Attributes:
        epoch: The current epoch, from 0.
        step: How many batches of the epoch are done.
        images: How many images of this process are in ``loss_sum``.
        loss_sum: The sum of the losses of this process over the images of the epoch so far.
        seconds: The time of the epoch so far.
        lr: The learning rate of the last update of the epoch.
    """

    epoch: int = 0
    step: int = 0
    images: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    lr: float = 0.0


class NotFiniteError(IEBNZooError):
    """The loss, the weights or all gradients are NaN or infinite.

    Attributes:
        span: The updates since the loss was last seen finite; one of them is the cause.
    """

    def __init__(self, what: str, span: Span, step: int, lr: float) -> None:
        super().__init__(f'{what} at step {step} of epoch {span[0]}, at learning rate {lr:.4g}.')
        self.span = span


class _Batch(NamedTuple):
    step: int
    first: int  # the first batch of its update
    batches: int  # how many batches its update has
    last: bool  # the last batch of its update


def train_one_epoch(
        trainer: Trainer,
        loader: BatchLoader,
        position: Position,
        extensions: Sequence[Extension] = (),
        skipped: Sequence[Span] = (),
        save: Optional[Callable[[Position], None]] = None,
        stop: Optional[StopSignals] = None,
) -> Dict[str, float]:
    """Train on the remaining batches of ``position.epoch``, and set ``position`` to the end of the epoch.

    Args:
        trainer: Makes the updates.
        loader: The batches of this process.
        position: Where to begin.
        extensions: They give the companions of each batch.
        skipped: The updates to leave out.
        save: Called every ``--checkpoint-steps`` updates, and before the run stops for a signal, with finite weights.
        stop: Tells after each update whether to stop. Several processes ask where they next compare their losses.

    Returns:
        ``train_loss`` (mean over the images of all processes), ``lr`` of the last step, ``seconds``, and
        ``images_per_second`` of all processes.

    Raises:
        NotFiniteError: The loss or the weights are NaN or infinite, seen by any process, or the loss scale of float16
            has collapsed. On the CPU the loss is read at every update, elsewhere every ``--log-interval``; loss and
            weights before every checkpoint.
        Stopped: A process got a signal, and ``save`` was called.
    """
    args, epoch = trainer.args, position.epoch
    plan = _plan(loader.batches_per_epoch, args.grad_accum_steps, position, skipped)
    loader.set_position(epoch, [batch.step for batch in plan])
    trainer.model.train()
    trainer.optimizer.zero_grad()
    # the loss stays on the device between log intervals: reading it each step would wait for the GPU each step
    wide = torch.float32 if trainer.device.type == 'mps' else torch.float64  # Apple's GPUs have no float64
    total = torch.tensor(position.loss_sum, dtype=wide, device=trainer.device)
    correct = torch.zeros((), dtype=torch.int64, device=trainer.device)
    seen, shown = position.images, 0
    progress = Progress(loader, f'epoch {epoch}', loader.batches_per_epoch - len(plan))
    began = time.perf_counter()
    lr, finite_at = (_lr(trainer) if plan else position.lr), position.step
    for (images, targets), batch in zip(progress, plan, strict=True):
        lr = _lr(trainer) if batch.step == batch.first else lr
        companions = _companions(extensions, epoch, batch.step)
        loss, logits = trainer.accumulate(images, targets, batch.batches, batch.last, companions)
        total += loss.to(wide) * len(images)
        seen += len(images)
        shown += len(images)
        if progress.live:
            correct += (logits.argmax(1) == targets).sum()
        if not batch.last:
            continue
        trainer.apply()
        ends = batch is plan[-1]
        due = not ends and save is not None and bool(args.checkpoint_steps) and (
            trainer.updates % args.checkpoint_steps == 0)
        received = stop.received if stop is not None else None
        alone = received is not None and not trainer.processes.many
        if not (ends or due or alone or trainer.device.type == 'cpu' or trainer.updates % args.log_interval == 0):
            continue
        stopping = _check(trainer, total, ends or due or alone, (epoch, finite_at, batch.step), lr, received)
        finite_at = batch.first
        seconds = time.perf_counter() - began
        if progress.shown:
            top1 = dict(top1=100 * float(correct) / shown) if progress.live else {}
            progress.show(loss=float(total) / seen, **top1, lr=lr, img_s=shown / seconds)
        if save is not None and (due or stopping):
            save(Position(epoch, batch.step + 1, seen, float(total), position.seconds + seconds, lr))
        if stopping:
            raise Stopped(stopping, saved=save is not None)
    everything = trainer.processes.sum(torch.stack([total, torch.tensor(float(seen)).to(total)])).tolist()
    if trainer.device.type != 'cpu':
        torch.get_device_module(trainer.device.type).synchronize()
    seconds = position.seconds + time.perf_counter() - began
    position.step, position.images, position.loss_sum = loader.batches_per_epoch, seen, float(total)
    position.seconds, position.lr = seconds, lr
    return dict(train_loss=everything[0] / everything[1] if everything[1] else math.nan, lr=lr, seconds=seconds,
                images_per_second=everything[1] / seconds)


def _plan(batches: int, per_update: int, position: Position, skipped: Sequence[Span]) -> List[_Batch]:
    # the last update of an epoch may have fewer batches than the others
    plan = []
    for first in range(position.step, batches, per_update):
        end = min(first + per_update, batches)
        if any(epoch == position.epoch and a <= first <= b for epoch, a, b in skipped):
            continue
        plan += [_Batch(step, first, end - first, step == end - 1) for step in range(first, end)]
    return plan


def _lr(trainer: Trainer) -> float:
    # of the network: a factor for the gates, or for the layers before the classifier, is no part of it
    return max(group['lr'] / group.get('lr_scale', 1.0) for group in trainer.optimizer.param_groups)


def _companions(extensions: Sequence[Extension], epoch: int, step: int) -> Optional[torch.Tensor]:
    given = [images for images in (e.companions(epoch, step) for e in extensions) if images is not None]
    return torch.cat(given) if given else None


def _check(
        trainer: Trainer, total: torch.Tensor, weights: bool, span: Span, lr: float, received: Optional[int],
) -> int:
    """Raise NotFiniteError if something is not finite; return the signal that a process has received, or 0."""
    # all processes stop, or go back, at the same update: the NaN or the signal of one is in the sum of all
    signals = torch.zeros(_SIGNALS, dtype=total.dtype)
    if received is not None:
        signals[received] = 1
    loss, *signals = trainer.processes.sum(torch.cat([total[None], signals.to(total.device)])).tolist()
    if not math.isfinite(loss):
        raise NotFiniteError(f'the loss is {loss}', span, span[2], lr)
    scale = trainer.collapsed_scale()  # the same in all processes: they share their gradients
    if scale is not None:
        raise NotFiniteError(f'the loss scale is {scale:.3g}, because no gradient is finite in float16,',
                             span, span[2], lr)
    stopping = next((number for number, count in enumerate(signals) if count), 0)
    if weights or stopping:
        bad = trainer.processes.sum(torch.tensor(float(not trainer.weights_are_finite()), device=trainer.device))
        if bad > 0:
            raise NotFiniteError('the weights are NaN or infinite', span, span[2], lr)
    return stopping
