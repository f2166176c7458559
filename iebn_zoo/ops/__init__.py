"""The IEBN operator as a function. ``ie_batch_norm`` chooses the implementation; ``reference`` is the oracle of all."""
from typing import Optional

from torch import Tensor

from iebn_zoo.ops import aten, reference

__all__ = ['aten', 'ie_batch_norm', 'reference']


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
) -> Tensor:
    """y = weight * sigmoid(gate_weight * mean_hw(x) + gate_bias) * (x - mu) / sqrt(var + eps) + bias

    The one entry to the operator: every faster implementation is chosen here, by device and dtype, and agrees with
    ``iebn_zoo.ops.reference.ie_batch_norm``, which documents the arguments.
    """
    implementation = aten if aten.supports(x, running_mean) else reference
    return implementation.ie_batch_norm(
        x, running_mean, running_var, weight, bias, gate_weight, gate_bias, training, momentum, eps)
