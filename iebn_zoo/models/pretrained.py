"""timm's BN checkpoints as pretrained tags of the IEBN models: ``resnet50.a1_in1k`` is ``iebn_resnet50.bn_a1_in1k``.

The weights come from timm's own repositories. ``bn_checkpoint.checkpoint_filter_fn`` converts them on load.
"""
from dataclasses import replace
from typing import Dict, Optional, Tuple, Union

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import PretrainedCfg, get_arch_pretrained_cfgs, get_pretrained_cfg

TAG_PREFIX = 'bn_'
_PAPER = 'arXiv:1908.04008'
_NOTE = ("BN-trained: the weights of timm's {name}, converted on load to an IEBN network that computes the same; "
         'a start for fine-tuning, not trained with IEBN')
# of a network that the installed timm does not have
_UNKNOWN = PretrainedCfg(
    pool_size=(7, 7), crop_pct=0.875, interpolation='bicubic', mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD,
    classifier='fc')


def pretrained_cfgs(arch: str, base: str) -> Dict[str, PretrainedCfg]:
    """Make the cfgs of an IEBN model for ``generate_default_cfgs``, timm's default tag first.

    Everything about the data, the classes, the license and the origin is timm's; ``notes`` says that the weights are
    BN-trained. Weights in a format of their own (``custom_load``) get no cfg, because timm calls no filter for them.

    Args:
        arch: Name of the IEBN model.
        base: Name of timm's BN model.

    Returns:
        One cfg for each checkpoint of ``base``, keyed ``arch.bn_<tag>``. Where there is none: one without weights,
        keyed ``arch``.
    """
    cfgs = {f'{arch}.{TAG_PREFIX}{cfg.tag or "default"}': _converted(name, cfg)
            for name, cfg in get_arch_pretrained_cfgs(base).items() if cfg.has_weights and not cfg.custom_load}
    return cfgs or {arch: _without_weights(get_pretrained_cfg(base) or _UNKNOWN)}


def _converted(name: str, cfg: PretrainedCfg) -> PretrainedCfg:
    return replace(
        cfg, architecture=None, tag=None,  # timm's registry sets both
        origin_url=cfg.origin_url or (f'https://huggingface.co/{cfg.hf_hub_id}' if cfg.hf_hub_id else cfg.url),
        paper_ids=(*_as_tuple(cfg.paper_ids), _PAPER), notes=(_NOTE.format(name=name), *_as_tuple(cfg.notes)))


def _without_weights(cfg: PretrainedCfg) -> PretrainedCfg:
    return replace(
        cfg, url='', file=None, hf_hub_id=None, hf_hub_filename=None, custom_load=False, tag=None,
        architecture=None, num_classes=1000, origin_url=None, paper_name=None, paper_ids=_PAPER, notes=None)


def _as_tuple(value: Optional[Union[str, Tuple[str, ...]]]) -> Tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())
