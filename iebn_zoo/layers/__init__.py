"""The IEBN layers."""
from iebn_zoo.layers.iebn import IEBatchNorm2d
from iebn_zoo.layers.iebn_act import IEBatchNormAct2d

__all__ = ['IEBatchNorm2d', 'IEBatchNormAct2d']
