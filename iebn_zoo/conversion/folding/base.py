"""Which of timm's models a folded network is."""
from typing import Any, Dict, List, Optional, Tuple

import timm
from torch import nn

# where a network's weights come from
SOURCES = ('url', 'file', 'state_dict', 'hf_hub_id', 'hf_hub_filename', 'tag')
_PROVENANCE = (*SOURCES, 'origin_url', 'notes')  # and what is said of them
# of the zoo's networks, about layers that are gone
_OWN_ARGS = ('gate_downsample', 'fuse_act', 'start', 'freeze_gate_weight')


def named_models(model: nn.Module) -> List[Tuple[nn.Module, Dict[str, Any]]]:
    """The parts of a network that timm built, itself or within a wrapper, each with its pretrained cfg."""
    # vars: some wrappers answer with the attributes of what they wrap
    cfgs = [(part, vars(part).get('pretrained_cfg')) for part in model.modules()]
    return [(part, cfg) for part, cfg in cfgs if isinstance(cfg, dict) and cfg.get('architecture')]


def name_base_models(model: nn.Module) -> None:
    """Give folded networks the name of their BN architecture, so that timm saves them as that: resnet18, not iebn_.

    The weights are no longer those of the network's pretrained cfg, so where they came from and the notes on them are
    taken out of it. A network that timm did not build, or whose name has no BN model, is left as it is.

    Args:
        model: Without IEBN layers. ``pretrained_cfg`` is replaced, in a backbone too; nothing else of it changes.
    """
    for part, cfg in named_models(model):
        base = base_architecture(cfg['architecture'])
        if base is None:
            continue
        cfg = {k: v for k, v in cfg.items() if k not in _PROVENANCE}
        part.pretrained_cfg = part.default_cfg = dict(cfg, architecture=base)
        if hasattr(part, '_model_args'):  # what timm writes into config.json and gives to the architecture's entrypoint
            part._model_args = base_args(part._model_args)


def base_architecture(name: str) -> Optional[str]:
    """Registered BN architecture of an ``iebn_`` one: resnet18, or bn_resnet20_cifar of the zoo; None without one."""
    base = name.removeprefix('iebn_')
    if base == name:
        return None
    return next((n for n in (base, f'bn_{base}') if timm.is_model(n)), None)


def base_args(model_args: Dict[str, Any]) -> Dict[str, Any]:
    """Arguments of an ``iebn_`` architecture without those that its BN architecture does not have."""
    return {k: v for k, v in model_args.items() if k not in _OWN_ARGS}
