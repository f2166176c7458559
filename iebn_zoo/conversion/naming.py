"""The name under which timm saves a converted network."""
from typing import Any, Collection, Dict, Mapping, Optional

import timm
from torch import nn

from iebn_zoo._compat import model_args, set_model_args
from iebn_zoo.conversion.folding.base import SOURCES, named_models

_PREFIX = 'iebn_'
# a BN network may be a folded IEBN network, so this does not say how it was trained
_NOTE = ('converted from the BN network {name} to an IEBN network that computes the same; a start for fine-tuning, '
         'whose gates had not been trained then')
_BN_PREFIX = 'bn_'  # of the zoo's own BN networks, bn_resnet20_cifar


def iebn_architecture(architecture: str) -> Optional[str]:
    """Return the registered IEBN variant of a BN architecture, or None: iebn_resnet18 of resnet18,
    iebn_resnet20_cifar of bn_resnet20_cifar."""
    name = _iebn_name(architecture)
    return name if timm.is_model(name) else None


def _iebn_name(architecture: str) -> str:
    return _PREFIX + architecture.removeprefix(_BN_PREFIX)


def name_iebn_models(model: nn.Module, converted: Collection[nn.Module], gate_shortcuts: bool) -> None:
    """Call a converted timm network ``iebn_<name>``, so that ``save_for_hf`` does not save it under its old name.

    timm would load what was saved under the old name into a network without gates. Under the new name timm builds the
    IEBN model, if there is one, and refuses to load otherwise. The new cfg says that the weights are those of a BN
    network, and no longer names their repository.

    Args:
        model: Whatever part of it timm built gets a new ``pretrained_cfg``: the backbone in a wrapper, too.
        converted: The norms that are converted, still in their places; a part without one keeps its name.
        gate_shortcuts: The norms of the shortcuts are gated, which the model of that name must be told.
    """
    for part, cfg in named_models(model):
        if any(module in converted for module in part.modules()):
            _name(part, cfg, gate_shortcuts)


def iebn_args(args: Mapping[str, Any], gate_shortcuts: bool) -> Dict[str, Any]:
    """Return the IEBN architecture's arguments for a network that was built with ``args`` and then converted."""
    kept = {k: v for k, v in args.items() if k != 'norm_weight_init'}  # of new networks without gates alone
    return {**kept, **({'gate_downsample': True} if gate_shortcuts else {})}


def _name(model: nn.Module, cfg: Dict[str, Any], gate_shortcuts: bool) -> None:
    architecture = cfg['architecture']
    if not architecture.startswith(_PREFIX):
        notes = cfg.get('notes') or ()
        notes = (_NOTE.format(name=architecture), *((notes,) if isinstance(notes, str) else notes))
        architecture = _iebn_name(architecture)
        kept = {k: v for k, v in cfg.items() if k not in SOURCES}
        cfg = dict(kept, architecture=architecture, notes=notes)
        vars(model).update(pretrained_cfg=cfg, default_cfg=cfg)
    args = model_args(model)
    if timm.is_model(architecture) and (gate_shortcuts or args is not None):
        set_model_args(model, iebn_args(args or {}, gate_shortcuts))
