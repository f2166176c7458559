"""One update of the weights."""
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Callable, Optional, Tuple

import torch
from timm.data.mixup import Mixup
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.training.engine.evaluate import autocast
from iebn_zoo.training.engine.step_graph import StepGraph
from iebn_zoo.util.processes import Processes

_LEAST_SCALE = 2 ** -14


@dataclass
class Trainer:
    """What an update needs.

    Attributes:
        model: The network; its weights are saved.
        forward: ``model``, or what wraps it: compiled, or for several processes.
        loss_fn: (logits, targets) -> scalar.
        optimizer: timm's optimizer.
        scheduler: timm's schedule, or None.
        args: The flags.
        processes: This process among the others.
        ema: The moving average of the weights, or None.
        mixup: Mixes images and targets, or None.
        scaler: Scales the loss for float16, or None.
        ddp: The wrapper for several processes, or None.
        graph: Runs forward and backward as a CUDA graph, or None.
        updates: The number of updates so far.
    """

    model: nn.Module
    forward: Callable[[torch.Tensor], torch.Tensor]
    loss_fn: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any
    args: TrainSettings
    processes: Processes
    ema: Optional[ModelEmaV3] = None
    mixup: Optional[Mixup] = None
    scaler: Optional[torch.amp.GradScaler] = None
    ddp: Optional[DistributedDataParallel] = None
    graph: Optional[StepGraph] = None
    updates: int = 0

    @property
    def device(self) -> torch.device:
        return self.processes.device

    def step(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Make an update from one batch; return the detached loss."""
        loss, _ = self.accumulate(images, targets)
        self.apply()
        return loss

    def accumulate(
            self,
            images: torch.Tensor,
            targets: torch.Tensor,
            batches: int = 1,
            last: bool = True,
            companions: Optional[torch.Tensor] = None,
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Add the gradient of one of the ``batches`` of an update.

        Args:
            images: (B, C, H, W).
            targets: (B,) class indices.
            batches: How many batches the update has; the gradient is that of the mean of their losses.
            last: This is the last of them; only then the processes exchange gradients.
            companions: (K, C, H, W), images that go through the network after these and do not count in the loss.

        Returns:
            The loss of this batch and its logits (B, classes), both detached. With a graph, the next call overwrites
            them.
        """
        if self.mixup is not None:
            images, targets = self.mixup(images, targets)
        if companions is not None:
            images = torch.cat([images, companions])
        if self.args.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        # the last update of an epoch may have fewer batches than the others: it is too rare to record it
        if self.graph is not None and batches == self.args.grad_accum_steps:
            loss, logits = self.graph(images, targets, accumulate=batches > 1)
            return loss, logits
        with nullcontext() if self.ddp is None or last else self.ddp.no_sync():
            return self.gradient(images, targets, batches)

    def gradient(self, images: torch.Tensor, targets: torch.Tensor, batches: int) -> Tuple[torch.Tensor, torch.Tensor]:
        """Run forward and backward.

        Args:
            images: (B + K, C, H, W); the last K are companions.
            targets: (B,) class indices, or (B, classes) of mixed images.
            batches: As in ``accumulate``.

        Returns:
            The loss and the logits (B, classes), both detached.
        """
        with autocast(self.args, self.device):
            logits = self.forward(images)
            if len(images) > len(targets):
                logits = logits[:len(targets)]
            loss = self.loss_fn(logits, targets)
        mean = loss if batches == 1 else loss / batches
        (mean if self.scaler is None else self.scaler.scale(mean)).backward()
        return loss.detach(), logits.detach()

    def apply(self) -> None:
        """Update weights, average and learning rate, and clear the gradient."""
        if self.scaler is None:
            self._clip()
            self.optimizer.step()
        else:
            self.scaler.unscale_(self.optimizer)
            self._clip()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad()
        self.updates += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.updates)
        if self.scheduler is not None:
            self.scheduler.step_update(self.updates)

    def weights_are_finite(self) -> bool:
        """Say whether all parameters and buffers of this process are finite."""
        tensors = [t.detach() for t in self.model.state_dict().values() if t.is_floating_point()]
        return bool(torch.stack([t.isfinite().all() for t in tensors]).all())

    def collapsed_scale(self) -> Optional[float]:
        """Return the loss scale if it is so low that no gradient has been finite for dozens of updates; else None.

        The scaler skips an update with an infinite gradient and halves the scale, which begins at 2^16. Below 2^-14
        only gradients above 1e9 leave float16: the network itself computes NaNs or infinities.
        """
        scale = self.scaler.get_scale() if self.scaler is not None else 1.
        return scale if scale < _LEAST_SCALE else None

    def _clip(self) -> None:
        if self.args.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.args.clip_grad)
