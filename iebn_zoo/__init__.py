"""Instance Enhancement Batch Normalization for timm. Importing this package registers its models."""
from importlib import import_module
from typing import TYPE_CHECKING, Any, List

from iebn_zoo import models
from iebn_zoo.layers import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.version import __version__

if TYPE_CHECKING:  # the lazy names of ``_LAZY``
    from iebn_zoo.conversion import convert_bn_to_iebn, convert_iebn_to_bn
    from iebn_zoo.conversion.folding import fold_gates
    from iebn_zoo.data.formats import open_image
    from iebn_zoo.hub.push.verify import verify
    from iebn_zoo.layers.norm_act import iebn_norm_act
    from iebn_zoo.layers.norm_parameters import norm_parameters
    from iebn_zoo.layers.unfreeze import unfreeze_batch_norm_2d
    from iebn_zoo.prediction.gates import image_gates
    from iebn_zoo.prediction.predict import predict
    from iebn_zoo.util.errors import IEBNZooError, UsageError

# found when first asked for: importing this package is part of starting a training script of timm's
_LAZY = {
    'IEBNZooError': 'iebn_zoo.util.errors',
    'UsageError': 'iebn_zoo.util.errors',
    'convert_bn_to_iebn': 'iebn_zoo.conversion',
    'convert_iebn_to_bn': 'iebn_zoo.conversion',
    'fold_gates': 'iebn_zoo.conversion.folding',
    'iebn_norm_act': 'iebn_zoo.layers.norm_act',
    'image_gates': 'iebn_zoo.prediction.gates',
    'norm_parameters': 'iebn_zoo.layers.norm_parameters',
    'open_image': 'iebn_zoo.data.formats',
    'predict': 'iebn_zoo.prediction.predict',
    'unfreeze_batch_norm_2d': 'iebn_zoo.layers.unfreeze',
    'verify': 'iebn_zoo.hub.push.verify',
}

__all__ = [
    'IEBNZooError', 'IEBatchNorm2d', 'IEBatchNormAct2d', 'UsageError', '__version__', 'convert_bn_to_iebn',
    'convert_iebn_to_bn', 'fold_gates', 'iebn_norm_act', 'image_gates', 'models', 'norm_parameters', 'open_image',
    'predict', 'unfreeze_batch_norm_2d', 'verify']


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> List[str]:
    return sorted({*globals(), *_LAZY})
