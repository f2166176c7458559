"""Folding, at its old place; see ``iebn_zoo.conversion.folding`` and ``iebn_zoo.plots.fold_report``."""
from typing import Any

from iebn_zoo.conversion.folding import Agreement, FoldReport, LayerGates, fold_gates

__all__ = ['Agreement', 'FoldReport', 'LayerGates', 'fold_gates']


def __getattr__(name: str) -> Any:
    if name != 'draw_gates':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from iebn_zoo.plots.fold_report import draw_gates  # matplotlib takes its time to import
    return draw_gates
