"""The IEBN layer."""
from iebn_zoo.layers.iebn import IEBatchNorm2d

__all__ = ['IEBatchNorm2d']
