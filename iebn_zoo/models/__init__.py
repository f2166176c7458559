"""The registry: importing this package registers every model of the zoo in timm."""
from iebn_zoo.models import iebn_cifar, iebn_resnet  # registers
from iebn_zoo.models.cifar_resnet import CifarResNet
from iebn_zoo.models.iebn_resnet import IEBNResNet
from iebn_zoo.models.reference_checkpoint import (
    convert_reference_state_dict,
    load_reference_checkpoint,
    reference_weights,
)

__all__ = [
    'CifarResNet', 'IEBNResNet', 'convert_reference_state_dict', 'iebn_cifar', 'iebn_resnet',
    'load_reference_checkpoint', 'reference_weights',
]
