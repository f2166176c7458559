"""The parameters of the norms of a network, for frameworks that know norms by the class of their layer."""
from typing import Dict

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from iebn_zoo.layers.iebn import IEBatchNorm2d


def norm_parameters(model: nn.Module) -> Dict[str, nn.Parameter]:
    """Return the scales, shifts and gates of all batch norms of a network, IEBN and plain ones.

    Lightning, fastai and transformers find norms by their class when they freeze a network or exempt norms from weight
    decay. They do not find those of IEBN: its parameters belong to a layer that is no ``nn.BatchNorm2d``.

    Args:
        model: The network; it is not changed.

    Returns:
        The parameters, of shape (C,), by their names in ``model.named_parameters()`` and in its order.
    """
    norms = {name for name, module in model.named_modules() if isinstance(module, (IEBatchNorm2d, _BatchNorm))}
    return {name: parameter for name, parameter in model.named_parameters() if name.rpartition('.')[0] in norms}
