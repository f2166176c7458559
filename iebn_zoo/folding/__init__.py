"""Folds the gates of an IEBN network into BatchNorm, and says what that costs."""
from iebn_zoo.folding.agreement import Agreement
from iebn_zoo.folding.fold import fold_gates
from iebn_zoo.folding.picture import draw_gates
from iebn_zoo.folding.report import FoldReport, LayerGates

__all__ = ['Agreement', 'FoldReport', 'LayerGates', 'draw_gates', 'fold_gates']
