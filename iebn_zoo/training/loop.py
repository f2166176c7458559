"""One epoch of training."""
import math
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional

import torch
from timm.data.loader import PrefetchLoader
from torch import distributed as dist
from torch import nn

from iebn_zoo.errors import IEBNZooError
from iebn_zoo.training.evaluate import autocast
from iebn_zoo.training.progress import Progress


@dataclass
class Trainer:
    """What a training step needs.

    Attributes:
        model: The network; its weights are saved.
        forward: ``model`` as it is called: compiled, wrapped for several processes, or itself.
        loss_fn: (logits, targets) -> scalar.
        optimizer: timm's.
        scheduler: timm's, or None.
        args: The flags.
        device: Of the model.
        ema: timm's ModelEmaV3, or None.
        mixup: timm's Mixup, or None.
        scaler: For float16.
        distributed: There are several processes.
        updates: Optimizer steps so far.
    """

    model: nn.Module
    forward: Callable[[torch.Tensor], torch.Tensor]
    loss_fn: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any
    args: Any
    device: torch.device
    ema: Any = None
    mixup: Any = None
    scaler: Optional[torch.amp.GradScaler] = None
    distributed: bool = False
    updates: int = 0

    def step(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Forward, backward, update; returns the detached loss."""
        if self.mixup is not None:
            images, targets = self.mixup(images, targets)
        if self.args.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.args, self.device):
            loss = self.loss_fn(self.forward(images), targets)
        self.optimizer.zero_grad()
        if self.scaler is None:
            loss.backward()
            self._clip()
            self.optimizer.step()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            self._clip()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.updates += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.updates)
        if self.scheduler is not None:
            self.scheduler.step_update(self.updates)
        return loss.detach()

    def _clip(self) -> None:
        if self.args.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.args.clip_grad)


def train_one_epoch(trainer: Trainer, loader: PrefetchLoader, epoch: int) -> Dict[str, float]:
    """Train over every batch of ``loader``.

    Returns:
        ``train_loss`` (mean over the images of all processes), ``lr`` of the last step, ``seconds``, and
        ``images_per_second`` of all processes.

    Raises:
        IEBNZooError: The loss is NaN or infinite.
    """
    trainer.model.train()
    loader.sampler.set_epoch(epoch)
    # the loss stays on the device between log intervals: reading it each step would wait for the GPU each step
    total, seen = torch.zeros((), dtype=torch.float64, device=trainer.device), 0
    progress = Progress(loader, f'epoch {epoch}')
    start = time.perf_counter()
    lr = 0.0
    for step, (images, targets) in enumerate(progress):
        lr = max(group['lr'] for group in trainer.optimizer.param_groups)
        loss = trainer.step(images, targets)
        total += loss.double() * len(images)
        seen += len(images)
        if step % trainer.args.log_interval == 0 or step == len(loader) - 1:
            _check_finite(float(total), epoch, step, lr)
            progress.show(loss=f'{float(total) / seen:.3f}', lr=f'{lr:.4g}',
                          img_s=f'{seen / (time.perf_counter() - start):.0f}')
    if trainer.distributed:
        dist.all_reduce(total)  # drop_last and the sampler give every process the same number of images
        seen *= dist.get_world_size()
    if trainer.device.type == 'cuda':
        torch.cuda.synchronize(trainer.device)
    seconds = time.perf_counter() - start
    return dict(train_loss=float(total) / seen, lr=lr, seconds=seconds,
                images_per_second=seen / seconds)


def _check_finite(total_loss: float, epoch: int, step: int, lr: float) -> None:
    if not math.isfinite(total_loss):
        raise IEBNZooError(
            f'the loss is {total_loss} by step {step} of epoch {epoch}, at learning rate {lr:.4g}.\n'
            f'last.pth.tar holds the state after epoch {epoch - 1}; try a lower --lr, --clip-grad or --warmup-epochs.')
