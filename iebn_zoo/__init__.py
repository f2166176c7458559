"""Instance Enhancement Batch Normalization for timm. Importing this package registers its models."""
from iebn_zoo import models
from iebn_zoo.layers import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.version import __version__

__all__ = ['IEBatchNorm2d', 'IEBatchNormAct2d', '__version__', 'models']
