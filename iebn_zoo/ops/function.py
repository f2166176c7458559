"""The autograd node of the closed-form implementations: their backward, and double backward through plain ops."""
from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from iebn_zoo.ops import composed


class IEBatchNormFunction(torch.autograd.Function):
    """Arguments of ``forward`` of the module that implements it (``aten`` or ``triton``) behind that module."""

    @staticmethod
    def forward(
            ctx: FunctionCtx,
            backend: Any,
            x: Tensor,
            running_mean: Optional[Tensor],
            running_var: Optional[Tensor],
            weight: Optional[Tensor],
            bias: Optional[Tensor],
            gate_weight: Tensor,
            gate_bias: Tensor,
            training: bool,
            momentum: float,
            eps: float,
            relu: bool,
            *extra: Optional[Tensor],
    ) -> Tensor:
        y, saved = backend.forward(
            x, running_mean, running_var, weight, bias, gate_weight, gate_bias, training, momentum, eps, relu, *extra)
        ctx.backend, ctx.training, ctx.eps, ctx.relu, ctx.extra = backend, training, eps, relu, len(extra)
        has_residual = len(extra) > 0 and extra[0] is not None
        ctx.inputs = 6 if has_residual else 5
        ctx.save_for_backward(x, weight, bias, gate_weight, gate_bias, *saved)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, weight, bias, gate_weight, gate_bias, *saved = ctx.saved_tensors
        needs = [ctx.needs_input_grad[i] for i in (1, 4, 5, 6, 7, 12)[:ctx.inputs]]
        if not torch.is_grad_enabled():
            gradients = ctx.backend.backward(
                dy, x, saved, weight, bias, gate_weight, ctx.training, ctx.eps, ctx.relu, needs)
        else:  # create_graph=True
            relu = ctx.relu
            if relu and len(needs) > 5:  # of a sum: the mask is that of the output, which the backend saved last
                dy, relu = dy * (saved[-1] > 0), False
            mu, var = ctx.backend.statistics(saved, ctx.eps)
            gradients = _differentiable_backward(
                dy, (x, weight, bias, gate_weight, gate_bias), needs, mu, var, ctx.training, ctx.eps, relu)
        dx, d_weight, d_bias, d_gate_weight, d_gate_bias, *d_residual = gradients
        return (
            None, dx, None, None, d_weight, d_bias, d_gate_weight, d_gate_bias, None, None, None, None,
            *d_residual, *(None,) * (ctx.extra - len(d_residual)))


def _differentiable_backward(
        dy: Tensor, inputs: Tuple[Optional[Tensor], ...], needs: Sequence[bool], mu: Tensor, var: Tensor,
        training: bool, eps: float, relu: bool,
) -> Tuple[Optional[Tensor], ...]:
    """The same gradients by autograd through the composed formula, so that they have gradients themselves."""
    # aliases: one tensor may be given as two of the inputs
    aliases = [None if t is None else t.view_as(t) for t in inputs]
    x, *parameters = aliases
    y = composed.ie_batch_norm(
        x, None if training else mu, None if training else var, *parameters, training, eps=eps, relu=relu)
    wanted = [t for t, needed in zip(aliases, needs[:5], strict=True) if needed]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True) if wanted else ())
    return *(next(found) if needed else None for needed in needs[:5]), *(dy for needed in needs[5:] if needed)
