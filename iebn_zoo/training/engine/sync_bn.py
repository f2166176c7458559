"""``--sync-bn``: batch statistics over all processes. torch's and timm's on CUDA; theirs refuses the CPU."""
from typing import Any, Optional

import torch
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, distributed, nn


def share_statistics(model: nn.Module, device: torch.device) -> nn.Module:
    """``model`` whose batch normalizations use the statistics of the batches of all processes; same state dict.

    Of an IEBN layer the normalizing child is replaced: a gate is an instance's own, there is nothing to share.
    """
    return convert_sync_batchnorm(model) if device.type == 'cuda' else _convert(model)


class CrossProcessNorm2d(nn.BatchNorm2d):
    """y = weight * (x - mu) / sqrt(var + eps) + bias, with mu and var over the batches of all processes.

    As nn.SyncBatchNorm, for any device, by two sums in the forward and two in the backward pass. The variance is that
    of the deviations from the shared mean, not E[x^2] - E[x]^2, which cancels. The gradient is that of the sum of the
    losses of all processes; DistributedDataParallel divides it by their number.

    Shape:
        (B, C, H, W) -> the same; B may differ between processes.
    """

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        if not self.training or not distributed.is_initialized():
            return super().forward(x)
        channels = (1, -1, 1, 1)
        values = x if x.dtype == torch.float64 else x.float()
        count = torch.tensor(float(x.numel() // x.shape[1]), dtype=torch.float64, device=x.device)
        distributed.all_reduce(count)
        mean = _AllReduce.apply(values.sum((0, 2, 3))) / count
        values = values - mean.view(channels)
        variance = _AllReduce.apply(values.square().sum((0, 2, 3))) / count
        self._update_statistics(mean.detach(), variance.detach(), count)
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        y = values * scale.view(channels)
        if self.bias is not None:
            y = y + self.bias.view(channels)
        return y.to(x.dtype)

    def _update_statistics(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), share)


class CrossProcessNormAct2d(CrossProcessNorm2d):
    """CrossProcessNorm2d with the ``drop`` and ``act`` of timm's BatchNormAct2d behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class _AllReduce(torch.autograd.Function):
    # every process's loss depends on every process's term: the gradients add up as the terms do
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.contiguous().clone()
        distributed.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        distributed.all_reduce(grad)
        return grad


def _convert(module: nn.Module) -> nn.Module:
    replaced = _replacement(module)
    if replaced is not None:
        return replaced
    for name, child in module.named_children():
        setattr(module, name, _convert(child))
    return module


def _replacement(norm: nn.Module) -> Optional[nn.Module]:
    if type(norm) is nn.BatchNorm2d:
        made = CrossProcessNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    elif isinstance(norm, BatchNormAct2d):
        made = CrossProcessNormAct2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made.drop, made.act = norm.drop, norm.act
    else:
        return None
    made.weight, made.bias = norm.weight, norm.bias
    made.running_mean, made.running_var = norm.running_mean, norm.running_var
    made.num_batches_tracked = norm.num_batches_tracked
    return made.train(norm.training)
