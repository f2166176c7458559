"""Folding, at its old place; see ``iebn_zoo.conversion.folding``."""
from iebn_zoo.conversion.folding import Agreement, FoldReport, LayerGates, fold_gates

__all__ = ['Agreement', 'FoldReport', 'LayerGates', 'fold_gates']
