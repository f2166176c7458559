"""The pretrained tags: BN checkpoints of timm, converted on load, and the checkpoints that this package carries.

timm's ``resnet50.a1_in1k`` is ``iebn_resnet50.bn_a1_in1k`` here: the weights come from timm's own repository, and
``bn_checkpoint.checkpoint_filter_fn`` converts them. What this package carries lies in ``hub_cards/<arch>.<tag>``, one
directory per checkpoint, exactly as it would lie on the Hub.
"""
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import PretrainedCfg, get_arch_pretrained_cfgs, get_pretrained_cfg

from iebn_zoo.util.resources import resource_directories

TAG_PREFIX = 'bn_'
_WEIGHTS = 'model.safetensors'
_SHIPPED_FIELDS = ('input_size', 'interpolation', 'crop_pct', 'crop_mode', 'mean', 'std', 'num_classes', 'pool_size',
                   'license', 'description')
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


def shipped_cfgs(arch: str, cfg: Mapping[str, Any]) -> Dict[str, PretrainedCfg]:
    """Make the cfgs of a model for ``generate_default_cfgs``, from the checkpoints that this package carries.

    What the images are (size, mean, standard deviation, crop), the number of classes and the license are those of the
    checkpoint's own config.json. The names of the classes are not part of the cfg: timm gives the cfg to new networks
    too, and to those that have since been trained on other classes. ``shipped_label_names`` has them.

    Args:
        arch: Name of the model.
        cfg: Fields of a model without weights.

    Returns:
        One cfg for each checkpoint, keyed ``arch.<tag>``. Where there is none: one without weights, keyed ``arch``.
    """
    cfgs = {}
    for directory in resource_directories('hub_cards', f'{arch}.*'):
        weights = directory / _WEIGHTS
        if weights.is_file():
            config = _config(directory)
            said = config['pretrained_cfg']
            if 'num_classes' in config:  # timm before 1.0.31 writes that of a new classifier at the top alone
                said['num_classes'] = config['num_classes']
            fields = {name: tuple(said[name]) if isinstance(said[name], list) else said[name]
                      for name in _SHIPPED_FIELDS if name in said}
            cfgs[directory.name] = PretrainedCfg(**{**cfg, **fields, 'url': None, 'file': str(weights)})
    # timm takes the first for the default of the architecture, which new networks have too: the same kind of images
    # and classes as without weights, if there is one
    own = [name for name, found in cfgs.items()
           if (found.input_size, found.num_classes) == (cfg.get('input_size'), cfg.get('num_classes'))]
    return {name: cfgs[name] for name in dict.fromkeys([*own, *cfgs])} or {arch: PretrainedCfg(**cfg)}


def shipped_label_names(cfg: Mapping[str, Any]) -> Optional[List[str]]:
    """Return the class names of the checkpoint that this package carries under the architecture and tag of ``cfg``.

    None for any other network. Call it only for a network that has just been made with these weights.
    """
    path = shipped_directory(cfg)
    return _config(path).get('label_names') if path else None


def shipped_directory(cfg: Mapping[str, Any]) -> Optional[Path]:
    """Return the directory of that checkpoint, with its card and the flags of its training; see there."""
    directories = resource_directories('hub_cards', f"{cfg.get('architecture')}.{cfg.get('tag')}")
    return next((d for d in directories if cfg.get('file') == str(d / _WEIGHTS)), None)


def _config(directory: Path) -> Dict[str, Any]:
    return json.loads((directory / 'config.json').read_text(encoding='utf-8'))


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
