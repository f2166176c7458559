"""How far an operator may be from float64, and why."""
import torch
from torch import Tensor

from iebn_zoo.util.errors import IEBNZooError

# float32 sums of up to 10^4 terms
FLOAT32 = 1e-5
# a narrow type rounds a result: half a unit in the last place, relative
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0 ** -8, torch.float16: 2.0 ** -11}
# where a result is a sum, its terms may have been rounded too
ROUNDINGS = {'y': 2, 'dx': 4, 'd_residual': 1}


def undecided(dtype: torch.dtype) -> float:
    """Return how close to zero arithmetic in ``dtype`` and in float64 may disagree about the sign."""
    return 1e-3 + 8 * ROUNDING[dtype]


def check_close(case: str, quantity: str, actual: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """Compare two tensors by their largest error and by its norm, each relative to the exact one's.

    The largest error shows what is wrong in one place, the norm what is slightly wrong everywhere: roundings are
    random, so that their norm is smaller than the largest of them.

    Args:
        case: What was computed.
        quantity: ``y``, ``dx``, ``d_residual``, which have the input's dtype, or another, which is float32.
        actual: Our value.
        exact: The value in float64.
        dtype: Of the input.

    Raises:
        IEBNZooError: The tensor is out of tolerance, or has another dtype.
    """
    wrong = f'the operator is wrong, so nothing is timed: {case}: {quantity}'
    rounding = ROUNDING[dtype] if quantity in ROUNDINGS else 0.0
    expected_dtype = dtype if quantity in ROUNDINGS else torch.float32
    if actual.dtype != expected_dtype:
        raise IEBNZooError(f'{wrong} is {actual.dtype}, expected {expected_dtype}.')
    exact = exact.detach()
    error = actual.detach().double() - exact
    for name, order, roundings in (('largest value', torch.inf, ROUNDINGS.get(quantity, 1)), ('norm', 2, 1)):
        relative = (torch.linalg.vector_norm(error, order) / torch.linalg.vector_norm(exact, order)).item()
        tolerance = FLOAT32 + roundings * rounding
        if not relative <= tolerance:  # NaN too
            raise IEBNZooError(
                f'{wrong} is off by {relative:.1e} of its {name}, tolerance {tolerance:.1e}.\n'
                f'Expected what iebn_zoo.ops.reference gives in float64; run pytest tests/ops.')
