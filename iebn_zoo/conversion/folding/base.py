"""Which of timm's models a folded network is."""
from typing import Any, Dict, List, Optional, Tuple

import timm
from torch import nn

from iebn_zoo._compat import model_args, set_model_args

# where a network's weights come from
SOURCES = ('url', 'file', 'state_dict', 'hf_hub_id', 'hf_hub_filename', 'tag')
_PROVENANCE = (*SOURCES, 'origin_url', 'notes')  # and what is said of them
# of the zoo's networks, about layers that are gone
_OWN_ARGS = ('gate_downsample', 'fuse_act', 'start', 'freeze_gate_weight')


def named_models(model: nn.Module) -> List[Tuple[nn.Module, Dict[str, Any]]]:
    """List the parts of a network that timm built, itself or within a wrapper, each with its pretrained cfg."""
    # vars: some wrappers answer with the attributes of what they wrap
    cfgs = [(part, vars(part).get('pretrained_cfg')) for part in model.modules()]
    return [(part, cfg) for part, cfg in cfgs if isinstance(cfg, dict) and cfg.get('architecture')]


def name_base_models(model: nn.Module) -> None:
    """Give folded networks the name of their BN architecture, so that timm saves them as that: resnet18, not iebn_.

    The weights are no longer those of the network's pretrained cfg, so the new cfg does not say where they came from
    and has no notes on them. A network that timm did not build, or whose name has no BN model, stays as it is.

    Args:
        model: Without IEBN layers. ``pretrained_cfg`` is replaced, in a backbone too; nothing else of it changes.
    """
    for part, cfg in named_models(model):
        base = base_architecture(cfg['architecture'])
        if base is None:
            continue
        cfg = {k: v for k, v in cfg.items() if k not in _PROVENANCE}
        cfg = dict(cfg, architecture=base)
        vars(part).update(pretrained_cfg=cfg, default_cfg=cfg)
        args = model_args(part)
        if args is not None:
            set_model_args(part, base_args(args))


def base_architecture(name: str) -> Optional[str]:
    """Return the registered BN architecture of an ``iebn_`` one, or None: resnet18, bn_resnet20_cifar of the zoo."""
    base = name.removeprefix('iebn_')
    if base == name:
        return None
    return next((n for n in (base, f'bn_{base}') if timm.is_model(n)), None)


def base_args(model_args: Dict[str, Any]) -> Dict[str, Any]:
    """Return the arguments of an ``iebn_`` architecture that its BN architecture has too."""
    return {k: v for k, v in model_args.items() if k not in _OWN_ARGS}
