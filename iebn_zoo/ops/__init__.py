"""The IEBN operator as a function. ``ie_batch_norm`` chooses the implementation; ``reference`` is the oracle of all."""
from typing import Any, Optional

import torch
from torch import Tensor

from iebn_zoo._compat import (
    current_dispatch_mode,
    forward_ad_active,
    functorch_transforms_active,
    is_exporting,
    is_tracing,
)
from iebn_zoo.ops import aten, compiled, composed, reference, triton
from iebn_zoo.ops.function import IEBatchNormFunction
from iebn_zoo.ops.reference import check_values

__all__ = ['ie_batch_norm', 'reference']


def ie_batch_norm(
        x: Tensor,
        running_mean: Optional[Tensor],
        running_var: Optional[Tensor],
        weight: Optional[Tensor],
        bias: Optional[Tensor],
        gate_weight: Tensor,
        gate_bias: Tensor,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
        relu: bool = False,
        residual: Optional[Tensor] = None,
        overwrite: bool = False,
        num_batches_tracked: Optional[Tensor] = None,
) -> Tensor:
    """y = weight * sigmoid(gate_weight * mean_hw(x) + gate_bias) * (x - mu) / sqrt(var + eps) + bias

    (section 3 of arXiv 1908.04008). This is the one entry to the operator: it chooses the implementation by device and
    dtype. Every implementation agrees with ``iebn_zoo.ops.reference.ie_batch_norm``.

    Args:
        x: (B, C, H, W), float64, float32, float16 or bfloat16.
        running_mean: (C,) or None.
        running_var: (C,) or None.
        weight: (C,) or None for 1.
        bias: (C,) or None for 0.
        gate_weight: (C,).
        gate_bias: (C,).
        training: Normalize by the batch and update the running statistics, as ``torch.nn.functional.batch_norm``.
        momentum: Share of the batch in the updated running statistics.
        eps: Added to the variance.
        relu: Return max(y, 0), or max(y + residual, 0). Where the implementation can, it computes that in the same
            pass.
        residual: (B, C, H, W), dtype of ``x``, added to y; or None.
        overwrite: Nobody needs ``x`` any more. With running statistics and without autograd, the CPU then writes the
            result over it: a fresh tensor, unless it is small, would cost more than the arithmetic.
        num_batches_tracked: () int64. In training the operator adds one to it, in the same kernel where the
            implementation can.

    Returns:
        (B, C, H, W), dtype of ``x``. It can be differentiated twice, except under torch.compile, whose backends refuse
        a second derivative. Under torch.compile, torch.export, tracing, torch.func, forward-mode AD and dispatch modes
        it consists of plain ops. So do its gradients where torch.func, forward-mode AD or a batch of gradients
        (``is_grads_batched=True``, ``vectorize=True``) meets them alone.

    Raises:
        ValueError: ``x`` has another dtype, or instances without a pixel.
    """
    compiling = _is_compiling()
    backend = None
    if not (compiling or _is_transformed(x)):
        backend = _closed_form(x, running_mean, weight, bias, gate_weight, gate_bias)
    if backend is None:
        check_values(x)  # the closed forms do not take what it refuses
    if residual is not None and (residual.dtype, residual.shape, residual.device) != (x.dtype, x.shape, x.device):
        backend = None
    if training and num_batches_tracked is not None and (
            backend is not triton or num_batches_tracked.device != x.device):
        num_batches_tracked.add_(1)
        num_batches_tracked = None
    if backend is None:
        return (compiled if compiling else composed).ie_batch_norm(
            x, running_mean, running_var, weight, bias, gate_weight, gate_bias, training, momentum, eps, relu, residual)
    by_batch = training or running_mean is None
    arguments = (x, running_mean, running_var, weight, bias, gate_weight, gate_bias, by_batch,
                 momentum if training else 0.0, eps, relu, residual)
    if backend is aten:
        return _run(aten, *arguments, overwrite=overwrite and not by_batch, keep=False)
    return _run(triton, *arguments, num_batches_tracked if training else None)


def _run(backend: Any, *arguments: Any, **inference: bool) -> Tensor:
    if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments):
        return IEBatchNormFunction.apply(backend, *arguments)
    return backend.forward(*arguments, **inference)[0]


def _is_compiling() -> bool:
    """Whether torch.compile traces this call, and neither torch.export nor a torch.func transform does."""
    return torch.compiler.is_dynamo_compiling() and not is_exporting() and not functorch_transforms_active()


def _is_transformed(x: Tensor) -> bool:
    """Whether something other than the eager engine runs this call. It must see ops, and may not have values yet."""
    return (
        torch.compiler.is_compiling() or is_tracing() or type(x) not in (Tensor, torch.nn.Parameter)
        or functorch_transforms_active() or current_dispatch_mode() is not None or forward_ad_active())


def _closed_form(x: Tensor, *others: Optional[Tensor]) -> Any:
    """Return the module that implements the closed form for these tensors, or None."""
    if x.is_cuda:
        return triton if triton.supports(x, *others) else None
    return aten if aten.supports(x) else None
