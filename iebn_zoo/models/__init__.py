"""The registry: importing this package registers every model of the zoo in timm."""
from importlib import import_module
from typing import TYPE_CHECKING, Any, List

from iebn_zoo.models import iebn_cifar, iebn_resnet  # registers
from iebn_zoo.models.cifar_resnet import CifarResNet
from iebn_zoo.models.iebn_resnet import IEBNResNet
from iebn_zoo.models.reference_checkpoint import convert_reference_state_dict

if TYPE_CHECKING:  # the lazy names of ``_LAZY``
    from iebn_zoo.weights.fit import load_reference_checkpoint, reference_weights

# found when first asked for: they open files, which is the business of iebn_zoo.weights
_LAZY = ('load_reference_checkpoint', 'reference_weights')

__all__ = [
    'CifarResNet', 'IEBNResNet', 'convert_reference_state_dict', 'iebn_cifar', 'iebn_resnet',
    'load_reference_checkpoint', 'reference_weights',
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module('iebn_zoo.weights.fit'), name)


def __dir__() -> List[str]:
    return sorted({*globals(), *_LAZY})
