"""The loss and the mixing of images and labels that the flags ask for."""
from typing import Optional, Tuple

from timm.data.mixup import Mixup
from timm.loss.binary_cross_entropy import BinaryCrossEntropy
from timm.loss.cross_entropy import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.util.errors import UsageError


def make_loss(args: TrainSettings, num_classes: int) -> Tuple[nn.Module, Optional[Mixup]]:
    """Make timm's loss and mixup by the flags.

    Raises:
        UsageError: The flags contradict.
    """
    if not args.bce_loss:
        alone = next((f for f in ('bce_target_thresh', 'bce_sum') if getattr(args, f) not in (None, False)), None)
        if alone is not None:
            raise UsageError(f"--{alone.replace('_', '-')} without --bce-loss.\nAdd --bce-loss, or leave it out.")
    mixup = None
    if args.mixup > 0 or args.cutmix > 0:
        if args.batch_size % 2:
            raise UsageError(f'--batch-size is {args.batch_size}, expected an even one with --mixup or --cutmix.')
        mixup = Mixup(args.mixup, args.cutmix, prob=args.mixup_prob, switch_prob=args.mixup_switch_prob,
                      label_smoothing=args.smoothing, num_classes=num_classes)
    if args.bce_loss:  # labels that mixup has made soft are smoothed already
        return BinaryCrossEntropy(smoothing=args.smoothing, target_threshold=args.bce_target_thresh,
                                  sum_classes=args.bce_sum), mixup
    if mixup is not None:
        return SoftTargetCrossEntropy(), mixup
    return (LabelSmoothingCrossEntropy(args.smoothing) if args.smoothing else nn.CrossEntropyLoss()), None
