"""Folds the gates of an IEBN network into BatchNorm, and says what that costs."""
from iebn_zoo.conversion.folding.agreement import Agreement
from iebn_zoo.conversion.folding.fold import fold_gates
from iebn_zoo.conversion.folding.report import FoldReport, LayerGates

__all__ = ['Agreement', 'FoldReport', 'LayerGates', 'fold_gates']
