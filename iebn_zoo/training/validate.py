"""``validate``: top-1 and top-5 of a registered name, a checkpoint, a directory or a Hub repository."""
import argparse
import math
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Optional, cast

import torch

from iebn_zoo.data.formats import image_mode
from iebn_zoo.data.holdout import held_out_split
from iebn_zoo.data.images import LabelledImages, open_images
from iebn_zoo.data.loader import make_loader
from iebn_zoo.data.settings import settings_of
from iebn_zoo.training.config.images import recorded_holdout
from iebn_zoo.training.config.input_size import settle_input_size
from iebn_zoo.training.config.limits import check_limits
from iebn_zoo.training.config.model import match_num_classes
from iebn_zoo.training.config.settings import ValidateSettings
from iebn_zoo.training.confusion import FILES, Confusion, write_confusion
from iebn_zoo.training.engine.evaluate import evaluate, note_on_amp
from iebn_zoo.training.engine.model_checks import check_images, compiled
from iebn_zoo.util.device import resolve_device
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.results import check_directory
from iebn_zoo.weights.open import Network, open_network


def validate(flags: argparse.Namespace, check: Optional[Callable[[LabelledImages], None]] = None) -> Dict[str, Any]:
    """Measure a network on labelled images, by the flags of ``validate_parser``.

    Args:
        flags: The flags.
        check: Called with the images before any of them is read, to refuse them.

    Returns:
        model, checkpoint, use_ema, val_split, held_out, top1, top5 (percent), top1_count, top5_count, count, loss,
        num_classes and the input settings, as JSON values.

    Raises:
        UsageError: The model, its classes and the data do not fit.
        IEBNZooError: The weights cannot be loaded, or a file of ``--confusion`` cannot be written.
    """
    check_limits(flags)
    settle_input_size(flags)
    args = settings_of(ValidateSettings, flags)
    if args.confusion:
        check_directory('--confusion', args.confusion, FILES)
    device = resolve_device(args.device)
    network = open_network(args.model, args.checkpoint, use_ema=args.use_ema, flags=vars(args))
    print(network.description, file=sys.stderr, flush=True)
    slow = note_on_amp(args, device)
    if slow:
        print(slow, file=sys.stderr, flush=True)
    model, names, config = network.model, network.label_names, network.data_config
    opened: Dict[str, Any] = dict(
        name=args.dataset, root=args.data_dir, download=args.dataset_download, class_names=names,
        mode=image_mode(config['input_size'][0], network.shown))
    if args.train_split is not None and not args.held_out:
        raise UsageError(f'--train-split {args.train_split} is for --held-out: it says which split the training held '
                         f'images out of.\nAdd --held-out, or name the images to measure on by --val-split.')
    images = _held_out(args, network, opened) if args.held_out else open_images(
        train=False, split=args.val_split, **opened)
    if check is not None:
        check(images)
    if args.confusion:
        images.check_outside(args.confusion, '--confusion')
    num_classes = cast(int, model.num_classes)
    if names is None:
        match_num_classes(num_classes, images.class_names, f'--data-dir {args.data_dir}')
    if names and images.class_names and images.class_names != names:
        odd = next(((a, b) for a, b in zip(names, images.class_names, strict=False) if a != b), (len(names), '...'))
        print(f'warning: the model calls a class {odd[0]!r} that the data calls {odd[1]!r}; '
              f'the order of the classes is taken to be the same', file=sys.stderr)
        match_num_classes(len(names), images.class_names, f'--data-dir {args.data_dir}')
    memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
    model = model.to(device).to(memory_format=memory_format)
    check_images(model, config)
    confusion = Confusion(num_classes) if args.confusion else None
    loader = make_loader(images, args, config, device, train=False)
    metrics = evaluate(compiled(model, args), loader, args, device, observe=confusion.add if confusion else None)
    skipped = loader.dataset.skipped()
    if skipped:
        print(f'note: --skip-corrupt: {skipped}', file=sys.stderr)
    if not math.isfinite(metrics['loss']):
        raise IEBNZooError(f"the loss of {network.shown} is {metrics['loss']}: its outputs are not finite.\n"
                           f'Use weights that did not diverge, or --no-amp.')
    if confusion is not None and args.confusion:
        title = f'{network.arch}: top-1 {metrics["top1"]:.2f} % of {metrics["count"]:,} images'
        for pair in write_confusion(confusion, Path(args.confusion), names or images.class_names, title,
                                    lambda number: images.read(number)[0]):
            print(pair, file=sys.stderr)
    arch = cast(Dict[str, Any], model.pretrained_cfg)['architecture']
    return dict(model=args.model or arch, checkpoint=args.checkpoint, use_ema=args.use_ema,
                val_split=args.val_split, held_out=args.held_out, num_classes=num_classes, **metrics, **config)


def _held_out(args: ValidateSettings, network: Network, opened: Dict[str, Any]) -> LabelledImages:
    if args.val_split is not None:
        raise UsageError(f'--held-out and --val-split {args.val_split} contradict: both say what to evaluate on.\n'
                         f'Give one of them.')
    holdout = recorded_holdout(network.checkpoint.get('args'), network.shown, args.train_split)
    if holdout is None:
        raise UsageError(f'--held-out: {network.shown} does not say that its training held images out.\n'
                         f'Give --checkpoint the file of a run that was trained with --holdout, as '
                         f'RUN/model_best.pth.tar.')
    train, held_out = held_out_split(
        open_images(train=True, split=args.train_split, whole=True, **opened), *holdout)
    data, count = network.checkpoint.get('data'), network.checkpoint.get('num_train_images')
    digest = data.get('train') if isinstance(data, dict) else None
    if digest is None and count is None:
        raise UsageError(f'--held-out: {network.shown} does not say which images it was trained on, and others would '
                         f'be split in another way.\nName the images to measure on by --val-split.')
    if digest not in (None, train.digest) or count not in (None, len(train)):
        raise UsageError(f'--held-out: the training images of --data-dir {args.data_dir} are not those of '
                         f'{network.shown}: their names, sizes or number differ.\n'
                         f'Give --data-dir and --dataset as in the training.')
    return held_out
