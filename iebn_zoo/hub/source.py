"""The network that a conversion starts from, whatever names it: a timm name, the Hub, a directory, a checkpoint."""
import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import timm
import torch
from torch import Tensor, nn

from iebn_zoo.errors import IEBNZooError, UsageError
from iebn_zoo.hub.checkpoint_file import CheckpointFile, read_checkpoint_file
from iebn_zoo.hub.config_check import check_config
from iebn_zoo.hub.text import local_name
from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.models.bn_checkpoint import checkpoint_filter_fn
from iebn_zoo.training import setup
from iebn_zoo.training.state import load_weights

_GATE = '.gate_weight'


@dataclass(frozen=True)
class Source:
    """A network with weights, and what is known about it.

    Attributes:
        model: float32, on the CPU, in eval mode.
        arch: Registered name.
        model_args: Arguments that rebuild ``model`` from ``arch``.
        data_config: Input size and preprocessing.
        label_names: Classes in order, or None.
        shown: What to call it, without places on this machine.
        base_model: Hub id of the weights, or None.
        license: Hub id of their license, or None.
        run: Directory of the training run, or None.
    """

    model: nn.Module
    arch: str
    model_args: Dict[str, Any]
    data_config: Dict[str, Any]
    label_names: Optional[List[str]]
    shown: str
    base_model: Optional[str] = None
    license: Optional[str] = None
    run: Optional[Path] = None

    @property
    def is_iebn(self) -> bool:
        return any(isinstance(m, IEBatchNorm2d) for m in self.model.modules())


def open_source(args: argparse.Namespace) -> Source:
    """Open what the flags name.

    Args:
        args: ``model``, ``pretrained``, ``checkpoint``, ``use_ema``, ``model_kwargs`` and the flags of
            ``add_data_arguments``.

    Raises:
        UsageError: No such model or file, flags that contradict, or weights of another kind of network.
        IEBNZooError: Damaged or non-finite weights, or ones that do not fit the model.
    """
    source = _from_checkpoint(args) if args.checkpoint else _from_name(args)
    model = source.model
    if not getattr(model, 'num_classes', 0):
        raise UsageError(f'{source.shown} has no classifier (num_classes is 0).\nExpected a network with logits.')
    for flag, value in (('num_classes', args.num_classes), ('in_chans', args.in_chans)):
        own = getattr(model, flag, value)
        if value is not None and value != own:
            raise UsageError(f"--{flag.replace('_', '-')} is {value}, but {source.shown} has {own}.\n"
                             f'A conversion keeps the head and the stem: leave the flag out.')
    labels = source.label_names
    if labels and len(labels) != model.num_classes:
        raise IEBNZooError(f'{source.shown} has {len(labels)} label names for {model.num_classes} classes.\n'
                           f'Correct the file that names them.')
    if labels and not all(isinstance(label, str) for label in labels):
        raise IEBNZooError(f'{source.shown} has a label name that is no text.\nCorrect the file that names them.')
    bad = next((k for k, v in model.state_dict().items() if not torch.isfinite(v).all()), None)
    if bad is not None:
        raise IEBNZooError(f'{source.shown}: {bad} has NaN or infinite values.\nUse weights that did not diverge.')
    return source


def _from_name(args: argparse.Namespace) -> Source:
    name = args.model
    if not name:
        raise UsageError('no --model given.\nExpected a registered name, local-dir:DIR or hf-hub:ID, or --checkpoint.')
    registered = ':' not in name
    if registered and timm.is_model(name.split('.')[0]) and not args.pretrained:
        raise UsageError(f'--model {name} alone has random weights.\n'
                         f'Add --pretrained, or give --checkpoint FILE, local-dir:DIR or hf-hub:ID.')
    if args.model_kwargs:
        raise UsageError('--model-kwargs says how to build the network of a --checkpoint.\n'
                         'Leave it out: these weights come with their arguments.')
    if name.startswith('local-dir:'):
        path = Path(name.removeprefix('local-dir:')) / 'config.json'
        if path.is_file():
            check_config(path)
    model = setup.create_model(name, pretrained=True).float().eval()
    cfg = model.pretrained_cfg
    labels = None if registered else cfg.get('label_names')
    base = cfg.get('hf_hub_id') if not name.startswith('local-dir:') else None
    return Source(
        model, cfg['architecture'], setup.architecture_args(model, {}), setup.data_config(args, model),
        list(labels) if isinstance(labels, (list, tuple)) else None, local_name(name),
        base.split('@')[0] if base else None, cfg.get('license'))


def _from_checkpoint(args: argparse.Namespace) -> Source:
    if args.pretrained or ':' in (args.model or ''):
        given = '--pretrained' if args.pretrained else f'--model {args.model}'
        raise UsageError(f'{given} has weights of its own, and --checkpoint gives others.\n'
                         f'Name the architecture alone, such as --model resnet50.')
    file = read_checkpoint_file(args.checkpoint, args.use_ema)
    name, shown = args.model or file.arch, local_name(args.checkpoint)
    if not name:
        raise UsageError(f'{args.checkpoint} holds weights alone.\nSay of which --model.')
    arch = name.split('.')[0]
    if file.arch and arch != file.arch.split('.')[0]:
        raise UsageError(f'{args.checkpoint} is of {file.arch}, not {name}.\nLeave out --model, or name that one.')
    model_args = {**_seen_args(arch, file.state_dict), **file.model_args, **(args.model_kwargs or {})}
    model = setup.create_model(arch, **model_args).eval()
    _check_kind(model, arch, file.state_dict, args.checkpoint)
    # old checkpoints lack them, and nothing but momentum=None reads them
    counts = {k: v for k, v in model.state_dict().items() if k.endswith('num_batches_tracked')}
    load_weights(model, {**counts, **file.state_dict}, args.checkpoint)
    run = Path(args.checkpoint).parent
    return Source(
        model, model.pretrained_cfg['architecture'], setup.architecture_args(model, model_args),
        _data_config(args, file, model), file.label_names, shown, run=run if (run / 'args.yaml').is_file() else None)


def _seen_args(arch: str, state_dict: Mapping[str, Tensor]) -> Dict[str, Any]:
    """Arguments that the shapes and names of the weights tell."""
    cfg = timm.get_pretrained_cfg(arch) if timm.is_model(arch) else None
    seen: Dict[str, Any] = {}
    for argument, layer, dim in (('num_classes', 'classifier', 0), ('in_chans', 'first_conv', 1)):
        name = getattr(cfg, layer, None)
        weight = state_dict.get(f'{name}.weight') if isinstance(name, str) else None
        if weight is not None and weight.dim() > dim:
            seen[argument] = weight.shape[dim]
    if arch.startswith('iebn_') and any('.downsample.' in k and k.endswith(_GATE) for k in state_dict):
        seen['gate_downsample'] = True
    return seen


def _check_kind(model: nn.Module, arch: str, state_dict: Mapping[str, Tensor], path: str) -> None:
    gated = any(k.endswith(_GATE) for k in state_dict)
    if any(isinstance(m, IEBatchNorm2d) for m in model.modules()):
        if not gated:
            raise UsageError(f'{path} has no gates, so it is no checkpoint of {arch}.\n'
                             f'Name the BN architecture that it is of, such as --model resnet50.')
        checkpoint_filter_fn(state_dict, model)  # tells one with some gates from one with all
    elif gated:
        raise UsageError(f'{path} has gates, so it is no checkpoint of {arch}.\n'
                         f'Name the IEBN architecture that it is of, such as --model iebn_resnet50.')


def _data_config(args: argparse.Namespace, file: CheckpointFile, model: nn.Module) -> Dict[str, Any]:
    flags = argparse.Namespace(**vars(args))
    for name, value in file.settings.items():
        if getattr(flags, name) is None:
            setattr(flags, name, value)
    config = setup.data_config(flags, model)
    trained = {**config, **(file.data_config or {})}
    for flag in ('img_size', 'mean', 'std', 'interpolation', 'crop_pct'):
        if getattr(args, flag) is not None:  # what the run was trained with, but for what is asked otherwise
            key = 'input_size' if flag == 'img_size' else flag
            trained[key] = config[key]
    for key, count in (('input_size', trained['input_size'][0]), ('mean', len(trained['mean'])),
                       ('std', len(trained['std']))):
        if count != config['input_size'][0]:
            raise IEBNZooError(f'{args.checkpoint} has {key} {list(trained[key])} for a network of '
                               f"{config['input_size'][0]} input channels.\nCorrect the file's data_config.")
    return trained
