"""``validate``: top-1 and top-5 of a registered name, a checkpoint, a directory or a Hub repository."""
import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import nn

from iebn_zoo.data.images import open_images
from iebn_zoo.data.loader import make_loader
from iebn_zoo.errors import IEBNZooError, UsageError
from iebn_zoo.files import write_text
from iebn_zoo.models import load_reference_checkpoint
from iebn_zoo.training import setup, state
from iebn_zoo.training.arguments import validate_parser
from iebn_zoo.training.evaluate import evaluate, metrics_line
from iebn_zoo.training.fit import check_images, compiled
from iebn_zoo.training.limits import check_limits


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    return validate_parser()


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of scripts/validate.py and of ``iebn-zoo validate``."""
    args = build_parser().parse_args(argv)
    if not args.model and not args.checkpoint:
        raise UsageError('no --model given.\nExpected a registered name, local-dir:DIR or hf-hub:ID, or --checkpoint.')
    results = validate(args)
    text = json.dumps(results, indent=2)
    if args.results_file:
        write_text(args.results_file, text + '\n')
    print(metrics_line(results), file=sys.stderr)
    print(text)
    return 0


def validate(args: argparse.Namespace) -> Dict[str, Any]:
    """Measure by the flags of ``validate_parser``.

    Returns:
        model, checkpoint, use_ema, val_split, top1, top5 (percent), top1_count, top5_count, count, loss, num_classes
        and the input settings, as JSON values.

    Raises:
        UsageError: The model, its classes and the data do not fit.
        IEBNZooError: The weights cannot be loaded.
    """
    check_limits(args)
    device = setup.resolve_device(args.device)
    model, names, config = _open_model(args)
    chans = config['input_size'][0]
    images = open_images(
        args.dataset, args.data_dir, False, args.val_split, args.dataset_download, 'L' if chans == 1 else 'RGB',
        _folder_classes(args, names))
    num_classes = getattr(model, 'num_classes', None)
    setup.match_num_classes(num_classes, images.class_names, f'--data-dir {args.data_dir}') if names is None else None
    if names and images.class_names and images.class_names != names:
        odd = next(((a, b) for a, b in zip(names, images.class_names, strict=False) if a != b), (len(names), '...'))
        print(f'warning: the model calls a class {odd[0]!r} that the data calls {odd[1]!r}; '
              f'the order of the classes is taken to be the same', file=sys.stderr)
        setup.match_num_classes(len(names), images.class_names, f'--data-dir {args.data_dir}')
    model = model.to(device, memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
    check_images(model, config)
    forward = compiled(model, args.torchcompile) if args.torchcompile else model
    metrics = evaluate(forward, make_loader(images, args, config, device, train=False), args, device)
    if not metrics['count']:
        raise IEBNZooError('no image could be decoded.\nCheck --data-dir.')
    return dict(model=args.model or model.pretrained_cfg['architecture'], checkpoint=args.checkpoint,
                use_ema=args.use_ema, val_split=args.val_split, num_classes=num_classes, **metrics, **config)


def _folder_classes(args: argparse.Namespace, names: Optional[List[str]]) -> Optional[List[str]]:
    # a folder or tar is numbered by the model's own names, so that a subset of the classes is measured rightly
    return names if not args.dataset else None


def _open_model(args: argparse.Namespace) -> Tuple[nn.Module, Optional[List[str]], Dict[str, Any]]:
    overrides = {k: v for k, v in (('num_classes', args.num_classes), ('in_chans', args.in_chans)) if v is not None}
    if not args.checkpoint:
        registered = ':' not in args.model
        if args.model.startswith('local-dir:'):
            _check_config(Path(args.model[len('local-dir:'):]) / 'config.json')
        model = setup.create_model(args.model, pretrained=True, **overrides)
        names = None if registered else model.pretrained_cfg.get('label_names')
        return model.eval(), list(names) if names else None, setup.data_config(args, model)
    if args.checkpoint.endswith('.safetensors'):
        model = setup.create_model(_named(args), **overrides)
        load_reference_checkpoint(model, args.checkpoint)
        return model.eval(), None, setup.data_config(args, model)
    checkpoint = state.load_checkpoint(args.checkpoint, own=not args.model)
    if 'arch' not in checkpoint:  # of other code
        model = load_reference_checkpoint(setup.create_model(args.model, **overrides), args.checkpoint)
        return model.eval(), None, setup.data_config(args, model)
    name = args.model or checkpoint['arch']
    if name.split('.')[0] != checkpoint['arch']:
        raise UsageError(
            f"{args.checkpoint} is of {checkpoint['arch']}, not {name}.\nLeave out --model, or name that one.")
    key = 'state_dict_ema' if args.use_ema else 'state_dict'
    if key not in checkpoint:
        raise UsageError(f'{args.checkpoint} has no EMA weights.\nLeave out --use-ema.')
    model = setup.create_model(name, **checkpoint['model_args'])
    state.load_weights(model, checkpoint[key], args.checkpoint)
    config = setup.data_config(args, model)
    flags = ('img_size', 'mean', 'std', 'interpolation', 'crop_pct')
    asked = [k for k in flags if getattr(args, k) is not None]
    trained = dict(checkpoint.get('data_config') or config)
    for flag in asked:  # what the run was trained with, but for what is asked otherwise
        trained['input_size' if flag == 'img_size' else flag] = config['input_size' if flag == 'img_size' else flag]
    return model.eval(), checkpoint.get('label_names'), trained


def _check_config(path: Path) -> None:
    # timm takes ImageNet's values for fields that are missing and a random head where two of them disagree
    from iebn_zoo.hub.config_check import check_config
    if path.is_file():
        check_config(path)


def _named(args: argparse.Namespace) -> str:
    if not args.model:
        raise UsageError(f'{args.checkpoint} holds weights alone.\nSay of which --model.')
    return args.model
