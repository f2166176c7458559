"""Notes at the start of a run: what the flags ask for, can be done, and is probably not meant."""
from typing import List, Optional, Sequence, Tuple

from iebn_zoo.data.listing import some_of
from iebn_zoo.data.transforms import crop_mode
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.settings import TrainSettings

_TOP5 = 5


def notes_on(
        args: TrainSettings,
        num_classes: int,
        batches_per_epoch: int,
        same_images: bool,
        size: Sequence[int],
        unmeasured: Sequence[str] = (),
        class_names: Optional[Sequence[str]] = None,
        first_names: Optional[Sequence[str]] = None,
) -> List[str]:
    """Return what to tell the user before the first epoch, a line each.

    Args:
        args: The flags.
        num_classes: The number of classes of the network and of the data.
        batches_per_epoch: Batches of one process in an epoch of training.
        same_images: The listings of the images to train on and to evaluate on are equal.
        size: Height and width of the images in pixels.
        unmeasured: Names of the classes that have images to train on and none to evaluate on.
        class_names: Names of the classes of the data, in the order of the logits; None where the data has none.
        first_names: Names of the classes of the weights that the run starts from; None where these have none.
    """
    found = (
        _on_warmup(args), _on_accumulation(args, batches_per_epoch), _on_metric(args, num_classes),
        _on_images(args, same_images), _on_unmeasured(args, num_classes, unmeasured),
        _on_classifier(class_names or (), first_names or ()), *_on_augmentation(args, size))
    return [f'note: {text}' for text in found if text is not None]


def _on_warmup(args: TrainSettings) -> Optional[str]:
    if args.sched == 'none' or args.warmup_epochs < args.epochs or not args.warmup_epochs:
        return None
    return (f'--warmup-epochs is {args.warmup_epochs} and --epochs {args.epochs}: the warmup is part of the epochs, so '
            f'that none of them has the full --lr; give fewer --warmup-epochs or more --epochs')


def _on_accumulation(args: TrainSettings, batches: int) -> Optional[str]:
    if args.grad_accum_steps <= batches:
        return None
    return (f'--grad-accum-steps is {args.grad_accum_steps}, and an epoch has {batches} '
            f'{"batch" if batches == 1 else "batches"} per process: each epoch is one update of these')


def _on_metric(args: TrainSettings, num_classes: int) -> Optional[str]:
    if args.eval_metric != 'top5' or num_classes > _TOP5:
        return None
    return (f'--eval-metric top5 is 100 in every epoch with {num_classes} classes, so that it finds no best epoch; '
            f'use top1 or loss')


def _on_images(args: TrainSettings, same: bool) -> Optional[str]:
    if not same or args.holdout is not None:  # what is held out is a part of one listing
        return None
    return ('the images to evaluate on look like those to train on, by their listing: if they are the same, the '
            'accuracy does not tell how well the network does on new images; --val-split names others, and --holdout '
            'keeps some apart')


def _on_unmeasured(args: TrainSettings, num_classes: int, names: Sequence[str]) -> Optional[str]:
    if not names:
        return None
    why = f': {args.holdout:g} of their training images rounds to none' if args.holdout is not None else ''
    return f'the evaluation has no images of {len(names)} of {num_classes} classes ({some_of(names)}){why}'


def _on_classifier(class_names: Sequence[str], first_names: Sequence[str]) -> Optional[str]:
    if len(class_names) != len(first_names):  # the classifier is new
        return None
    odd = next((i for i, (new, old) in enumerate(zip(class_names, first_names, strict=True)) if new != old), None)
    if odd is None:
        return None
    return (f'the classifier of the first weights is kept, because it has {len(first_names)} classes as the data has, '
            f'but they are others: class {odd} was {first_names[odd]} and is {class_names[odd]} now')


def _on_augmentation(args: TrainSettings, size: Sequence[int]) -> List[str]:
    """Name the flags of augmentation and loss that were set and have no effect, with what takes it from them."""
    defaults, mode = vars(train_parser().parse_args([])), crop_mode(args.train_crop_mode, size)
    found: List[Tuple[Sequence[str], str]] = []
    if args.no_aug:
        found.append((('train_crop_mode', 'crop_padding', 'train_interpolation', 'scale', 'ratio', 'hflip', 'vflip',
                       'color_jitter', 'aa', 'reprob'), 'with --no-aug'))
    elif mode == 'pad':
        # a policy of --aa picks its interpolation at random too
        fixed = ('train_interpolation',) if args.train_interpolation == 'random' and not args.aa else ()
        usual = '' if args.train_crop_mode else ', the default up to 64 px (--train-crop-mode rrc is another)'
        found.append((('scale', 'ratio', *fixed), f'in crop mode pad{usual}'))
    else:
        found.append((('crop_padding',), f'in crop mode {mode}'))
    if args.aa and '3a' not in args.aa and not args.no_aug:  # timm's policies with 3a leave colours to the jitter
        found.append((('color_jitter',), f'with --aa {args.aa}'))
    if not (args.mixup or args.cutmix):
        found.append((('mixup_prob',), 'without --mixup or --cutmix'))
    if not (args.mixup and args.cutmix):
        found.append((('mixup_switch_prob',), 'unless both --mixup and --cutmix are on'))
    if not args.bce_loss:
        found.append((('bce_target_thresh', 'bce_sum'), 'without --bce-loss'))
    notes = []
    for names, why in found:
        asked = [name for name in names if getattr(args, name) not in (defaults[name], 0, None)]
        flags = [f"--{name.replace('_', '-')}" for name in asked]
        if flags:
            notes.append(f'{" and ".join(flags)} {"has" if len(flags) == 1 else "have"} no effect {why}')
    return notes
