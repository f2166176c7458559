"""The start of an IEBN layer: which values its parameters have before training."""
import math
from typing import Optional

GATE_BIAS_INIT = -1.0
GATE_INIT = 1.0 / (1.0 + math.exp(-GATE_BIAS_INIT))  # sigmoid(-1) = 0.2689: every gate, as gate_weight starts at 0

PAPER, BN = 'paper', 'bn'
STARTS = (PAPER, BN)
DEFAULT_START = PAPER  # of a layer, and of the ImageNet family
CIFAR_START = BN  # of the CIFAR networks, by the runs in scripts/benchmarks/start


def resolve_start(start: Optional[str], affine: bool = True, default: str = DEFAULT_START) -> str:
    """Return the start that an argument asks for.

    Args:
        start: One of ``STARTS``; None for ``default``, or for ``'paper'`` where the layer has no weight.
        affine: The layer has a weight.
        default: The start of a network that names none.

    Raises:
        ValueError: ``start`` is unknown, or ``'bn'`` without ``affine``.
    """
    if start is None:
        return default if affine else PAPER
    if start not in STARTS:
        raise ValueError(
            f"start is {start!r}; expected 'paper' (weight 1: a new layer computes 0.27 times what BatchNorm computes) "
            f"or 'bn' (weight 1/sigmoid(-1): it computes what BatchNorm computes).")
    if start == BN and not affine:
        raise ValueError("start='bn' needs affine=True, because only a weight of 1/sigmoid(-1) can make up for the "
                         "gate; use start='paper', or affine=True.")
    return start


def initial_weight(start: str) -> float:
    """Return the ``weight`` of a new IEBN layer: 1 for ``'paper'``, 1/sigmoid(-1) = 3.7183 for ``'bn'``."""
    return 1.0 if start == PAPER else 1.0 / GATE_INIT
