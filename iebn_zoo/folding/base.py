"""Which of timm's models a folded network is."""
from typing import Any, Dict, Optional

import timm
from torch import nn

_SOURCES = ('url', 'file', 'hf_hub_id', 'hf_hub_filename', 'tag')
_OWN_ARGS = ('gate_downsample', 'fuse_act')  # of the zoo's networks, about layers that are gone


def name_base_model(model: nn.Module) -> None:
    """Give a folded network the name of its BN architecture, so that timm saves it as that: resnet18, no longer iebn_.

    The weights are no longer those of the network's pretrained cfg, so where they came from is taken out of it. A
    network that timm did not build, or whose name has no BN model, is left as it is.

    Args:
        model: ``pretrained_cfg`` is replaced; nothing else of it changes.
    """
    cfg = getattr(model, 'pretrained_cfg', None)
    base = base_architecture(cfg.get('architecture') or '') if isinstance(cfg, dict) else None
    if base is None:
        return
    cfg = {k: v for k, v in cfg.items() if k not in _SOURCES}
    model.pretrained_cfg = model.default_cfg = dict(cfg, architecture=base)
    if hasattr(model, '_model_args'):  # what timm writes into config.json and gives to the architecture's entrypoint
        model._model_args = base_args(model._model_args)


def base_architecture(name: str) -> Optional[str]:
    """Registered BN architecture of an ``iebn_`` one: resnet18, or bn_resnet20_cifar of the zoo; None without one."""
    base = name.removeprefix('iebn_')
    if base == name:
        return None
    return next((n for n in (base, f'bn_{base}') if timm.is_model(n)), None)


def base_args(model_args: Dict[str, Any]) -> Dict[str, Any]:
    """Arguments of an ``iebn_`` architecture without those that its BN architecture does not have."""
    return {k: v for k, v in model_args.items() if k not in _OWN_ARGS}
