"""The autograd node of the closed-form implementations.

Its backward is theirs, and consists of plain ops where something differentiates or transforms that backward itself.
"""
from typing import Any, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from iebn_zoo._compat import functorch_transforms_active, has_tangent, is_legacy_batched
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
        # is_legacy_batched: the vmap of torch.autograd.grad(is_grads_batched=True) is not one of torch.func
        transformed = functorch_transforms_active() or has_tangent(dy) or is_legacy_batched(dy)
        if not (torch.is_grad_enabled() or transformed):
            d = ctx.backend.backward(dy, x, saved, weight, bias, gate_weight, ctx.training, ctx.eps, ctx.relu, needs)
        else:  # create_graph=True, or a transform that sees this backward and did not see the forward
            relu = ctx.relu
            if relu and ctx.has_residual:  # the ReLU is of the sum: its mask is that of the output
                dy, relu = dy * (saved.y > 0), False
            mu, var = ctx.backend.statistics(saved, ctx.eps)
            d = _differentiable_backward(
                dy, (x, weight, bias, gate_weight, gate_bias), needs, mu, var, ctx.training, ctx.eps, relu, transformed)
        return (
            None, d.x, None, None, d.weight, d.bias, d.gate_weight, d.gate_bias, None, None, None, None, d.residual,
            *(None for _ in extra))


def _differentiable_backward(
        dy: Tensor, inputs: Tuple[Tensor, Optional[Tensor], Optional[Tensor], Tensor, Tensor], needs: Needs, mu: Tensor,
        var: Tensor, training: bool, eps: float, relu: bool, transformed: bool,
) -> Gradients:
    """Differentiate the composed formula, in plain ops, so that the gradients can be differentiated or transformed.

    ``transformed`` says that a transform is active, within which only torch.func can differentiate. Elsewhere autograd
    does, as torch.func refuses ``saved_tensors_hooks``.
    """
    wanted = [i for i, (t, needed) in enumerate(zip(inputs, needs, strict=False)) if t is not None and needed]

    def formula(*tensors: Tensor) -> Tensor:
        x, weight, bias, gate_weight, gate_bias = (
            tensors[wanted.index(i)] if i in wanted else t for i, t in enumerate(inputs))
        assert x is not None and gate_weight is not None and gate_bias is not None
        return composed.ie_batch_norm(
            x, None if training else mu, None if training else var, weight, bias, gate_weight, gate_bias, training,
            eps=eps, relu=relu)

    # aliases: one tensor may be given as two of the inputs
    aliases = [t.view_as(t) for i, t in enumerate(inputs) if t is not None and i in wanted]
    found: Sequence[Tensor] = ()
    if aliases and transformed:
        found = torch.func.vjp(formula, *aliases)[1](dy)
    elif aliases:
        found = torch.autograd.grad(formula(*aliases), aliases, dy, create_graph=True)
    gradients = dict(zip(wanted, found, strict=True))
    d_x, d_weight, d_bias, d_gate_weight, d_gate_bias = map(gradients.get, range(len(inputs)))
    return Gradients(d_x, d_weight, d_bias, d_gate_weight, d_gate_bias, dy if needs.residual else None)
