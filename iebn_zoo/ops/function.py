"""The autograd node of the closed-form implementations: their backward, and double backward through plain ops."""
from typing import Any, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from iebn_zoo.ops import composed


class Needs(NamedTuple):
    """For which inputs ``backward`` is to compute a gradient."""

    x: bool
    weight: bool
    bias: bool
    gate_weight: bool
    gate_bias: bool
    residual: bool = False


class Gradients(NamedTuple):
    """The gradient of each input, of the input's shape; None where nobody needs it."""

    x: Optional[Tensor]
    weight: Optional[Tensor]
    bias: Optional[Tensor]
    gate_weight: Optional[Tensor]
    gate_bias: Optional[Tensor]
    residual: Optional[Tensor] = None


class IEBatchNormFunction(torch.autograd.Function):
    """``apply`` takes the module that implements the operator, ``aten`` or ``triton``, and its forward's arguments.

    That module has a class ``Saved``, a named tuple of tensors, of which ``y`` is the output where backward reads it.
    """

    @staticmethod
    def forward(
            ctx: Any,
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
            residual: Optional[Tensor],
            *extra: Optional[Tensor],
    ) -> Tensor:
        y, saved = backend.forward(
            x, running_mean, running_var, weight, bias, gate_weight, gate_bias, training, momentum, eps, relu, residual,
            *extra)
        ctx.backend, ctx.training, ctx.eps, ctx.relu = backend, training, eps, relu
        ctx.has_residual = residual is not None
        ctx.save_for_backward(x, weight, bias, gate_weight, gate_bias, *saved)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, weight, bias, gate_weight, gate_bias, *saved = ctx.saved_tensors
        saved = ctx.backend.Saved(*saved)
        (_, need_x, _, _, need_weight, need_bias, need_gate_weight, need_gate_bias, _, _, _, _, need_residual, *extra,
         ) = ctx.needs_input_grad
        needs = Needs(need_x, need_weight, need_bias, need_gate_weight, need_gate_bias, need_residual)
        if not torch.is_grad_enabled():
            d = ctx.backend.backward(dy, x, saved, weight, bias, gate_weight, ctx.training, ctx.eps, ctx.relu, needs)
        else:  # create_graph=True
            relu = ctx.relu
            if relu and ctx.has_residual:  # the ReLU is of the sum: its mask is that of the output
                dy, relu = dy * (saved.y > 0), False
            mu, var = ctx.backend.statistics(saved, ctx.eps)
            d = _differentiable_backward(
                dy, (x, weight, bias, gate_weight, gate_bias), needs, mu, var, ctx.training, ctx.eps, relu)
        return (
            None, d.x, None, None, d.weight, d.bias, d.gate_weight, d.gate_bias, None, None, None, None, d.residual,
            *(None for _ in extra))


def _differentiable_backward(
        dy: Tensor, inputs: Tuple[Tensor, Optional[Tensor], Optional[Tensor], Tensor, Tensor], needs: Needs, mu: Tensor,
        var: Tensor, training: bool, eps: float, relu: bool,
) -> Gradients:
    """Compute the gradients by autograd through the composed formula, so that they have gradients themselves."""
    # aliases: one tensor may be given as two of the inputs
    x, weight, bias, gate_weight, gate_bias = aliases = [None if t is None else t.view_as(t) for t in inputs]
    assert x is not None and gate_weight is not None and gate_bias is not None
    y = composed.ie_batch_norm(
        x, None if training else mu, None if training else var, weight, bias, gate_weight, gate_bias, training, eps=eps,
        relu=relu)
    wanted = [t for t, needed in zip(aliases, needs, strict=False) if t is not None and needed]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True) if wanted else ())
    dx, *d_parameters = (next(found) if needed else None for needed in needs[:-1])
    return Gradients(dx, *d_parameters, residual=dy if needs.residual else None)
