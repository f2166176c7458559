"""The name under which timm saves a converted network."""
from typing import Any, Collection, Dict, Mapping, Optional

import timm
from torch import nn

from iebn_zoo.conversion.folding.base import SOURCES, named_models

_PREFIX = 'iebn_'
_NOTE = ('BN-trained, as far as it was trained then: converted from the BN network {name} to an IEBN network that '
         'computes the same; a start for fine-tuning, not trained with IEBN')
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
    timm builds it; where there is none, it refuses to load. The notes say that the weights are BN-trained, and the
    repository of the BN network's is no longer named as theirs.

    Args:
        model: Whatever part of it timm built gets a new ``pretrained_cfg``: the backbone in a wrapper, too.
        converted: The norms that are converted, still in their places; a part without one keeps its name.
        gate_shortcuts: The norms of the shortcuts are gated, which the model of that name must be told.
    """
    for part, cfg in named_models(model):
        if any(module in converted for module in part.modules()):
            _name(part, cfg, gate_shortcuts)


def iebn_args(model_args: Mapping[str, Any], gate_shortcuts: bool) -> Dict[str, Any]:
    """Arguments of the IEBN architecture for a network that was built with ``model_args`` and then converted."""
    kept = {k: v for k, v in model_args.items() if k != 'norm_weight_init'}  # of new networks without gates alone
    return {**kept, **({'gate_downsample': True} if gate_shortcuts else {})}


def _name(model: nn.Module, cfg: Dict[str, Any], gate_shortcuts: bool) -> None:
    architecture = cfg['architecture']
    if not architecture.startswith(_PREFIX):
        notes = cfg.get('notes') or ()
        notes = (_NOTE.format(name=architecture), *((notes,) if isinstance(notes, str) else notes))
        architecture = _iebn_name(architecture)
        kept = {k: v for k, v in cfg.items() if k not in SOURCES}
        model.pretrained_cfg = model.default_cfg = dict(kept, architecture=architecture, notes=notes)
    if timm.is_model(architecture) and (gate_shortcuts or hasattr(model, '_model_args')):
        model._model_args = iebn_args(getattr(model, '_model_args', {}), gate_shortcuts)
