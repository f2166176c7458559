"""The name under which timm saves a converted network."""
from typing import Any, Collection, Dict, Optional

import timm
from torch import nn

from iebn_zoo.folding.base import named_models

_PREFIX = 'iebn_'
_BN_PREFIX = 'bn_'  # of the zoo's own BN networks, bn_resnet20_cifar


def iebn_architecture(architecture: str) -> Optional[str]:
    """Registered IEBN variant of a BN architecture: iebn_resnet18 of resnet18, iebn_resnet20_cifar of
    bn_resnet20_cifar; None where there is none."""
    name = _iebn_name(architecture)
    return name if timm.is_model(name) else None


def _iebn_name(architecture: str) -> str:
    return _PREFIX + architecture.removeprefix(_BN_PREFIX)


def name_iebn_models(model: nn.Module, converted: Collection[nn.Module], gate_shortcuts: bool) -> None:
    """Call a converted timm network ``iebn_<name>``, so that ``save_for_hf`` does not call it what it was.

    Under its old name the saved network would be loaded into one without gates. Where there is a model of the new name
    timm builds it; where there is none, it refuses to load.

    Args:
        model: Whatever part of it timm built gets a new ``pretrained_cfg``: the backbone in a wrapper, too.
        converted: The norms that are converted, still in their places; a part without one keeps its name.
        gate_shortcuts: The norms of the shortcuts are gated, which the model of that name must be told.
    """
    for part, cfg in named_models(model):
        if any(module in converted for module in part.modules()):
            _name(part, cfg, gate_shortcuts)


def _name(model: nn.Module, cfg: Dict[str, Any], gate_shortcuts: bool) -> None:
    architecture = cfg['architecture']
    if not architecture.startswith(_PREFIX):
        architecture = _iebn_name(architecture)
        model.pretrained_cfg = model.default_cfg = dict(cfg, architecture=architecture, tag=None)
    if gate_shortcuts and timm.is_model(architecture):
        model._model_args = dict(getattr(model, '_model_args', {}), gate_downsample=True)
