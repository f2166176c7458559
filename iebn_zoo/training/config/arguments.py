"""The flags, with timm's names."""
import argparse
from typing import Any, Optional, Sequence

from iebn_zoo.training.callbacks.base import extension_classes
from iebn_zoo.util.command_line.flags import ModelKwargs, Switch, add_config, add_device, add_use_ema, expanded
from iebn_zoo.util.command_line.parser import Parser


def add_data_arguments(parser: argparse.ArgumentParser, alone: str = '--holdout',
                       classes: str = 'as many as the data has') -> None:
    """Add the flags that say which images, and how they are prepared.

    Args:
        parser: The parser of the command.
        alone: What lets ``--data-dir`` be class folders alone, for the help.
        classes: The default of ``--num-classes``, for the help.
    """
    g = parser.add_argument_group('data')
    g.add_argument('--data-dir', type=expanded, metavar='DIR', help='image folder (train/, val/ or test/ of class '
                   f'folders; or class folders, with {alone}) or directory with train.tar and test.tar; for a named '
                   '--dataset the place of its files')
    g.add_argument('--dataset', default='', metavar='NAME', help="timm's name of a dataset, such as torch/cifar100 or "
                   'hfds/uoft-cs/cifar100')
    g.add_argument('--dataset-download', action=Switch, help='download a named dataset that is not there')
    g.add_argument('--val-split', metavar='NAME', help='folder, tar or split to evaluate on (default: val or test)')
    g.add_argument('--num-classes', type=int, metavar='N', help=f'number of classes (default: {classes})')
    g.add_argument('--in-chans', type=int, metavar='N', help="image channels, 3 or 1 (default: the model's)")
    g.add_argument('--img-size', type=int, metavar='N', help="square image size in pixels (default: the model's)")
    g.add_argument('--input-size', type=int, nargs=3, metavar=('C', 'H', 'W'), help='image channels, height and width, '
                   "which need not be equal (default: the model's)")
    g.add_argument('--mean', type=float, nargs='+', metavar='M', help="normalization mean (default: the model's)")
    g.add_argument('--std', type=float, nargs='+', metavar='S', help="normalization std (default: the model's)")
    g.add_argument('--interpolation', metavar='NAME', help="resize interpolation (default: the model's)")
    g.add_argument('--crop-pct', type=float, metavar='P', help='share of the resized image that evaluation crops '
                   "(default: the model's)")
    g.add_argument('-b', '--batch-size', type=int, default=128, metavar='N', help='images per batch and process')
    g.add_argument('-j', '--workers', type=int, default=1, metavar='N',
                   help='loader processes per process; with 0 the process loads its images itself')
    g.add_argument('--skip-corrupt', action=Switch,
                   help='skip images that cannot be decoded (default: stop and name the first)')


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where and how precisely to compute."""
    g = parser.add_argument_group('device')
    add_device(g)
    g.add_argument('--amp', action=Switch, help='mixed precision by autocast')
    g.add_argument('--amp-dtype', default='bfloat16', choices=('bfloat16', 'float16'), help='dtype of --amp')
    g.add_argument('--channels-last', action=Switch, help='channels_last memory format')
    g.add_argument('--torchcompile', nargs='?', const='inductor', metavar='BACKEND',
                   help='compile the model by torch.compile with BACKEND (inductor if none is given)')
    modes = ('default', 'reduce-overhead', 'max-autotune', 'max-autotune-no-cudagraphs')
    g.add_argument('--torchcompile-mode', choices=modes, help='mode of torch.compile; it implies --torchcompile')
    g.add_argument('--compile-mode', dest='torchcompile_mode', choices=modes, help=argparse.SUPPRESS)  # as benchmark


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group('model')
    g.add_argument('--model', metavar='NAME', help='timm name, hf-hub:ID or local-dir:DIR')
    g.add_argument('--pretrained', action=Switch, help='start from the pretrained weights of the name')
    g.add_argument('--initial-checkpoint', type=expanded, metavar='FILE', help='start from the weights of a file: a '
                   'checkpoint, a state dict or safetensors')
    g.add_argument('--gp', metavar='POOL', help="global pooling: avg, max, avgmax, catavgmax (default: the model's)")
    g.add_argument('--drop', type=float, metavar='P', help="dropout before the classifier (default: the model's)")
    g.add_argument('--drop-path', type=float, metavar='P', help="stochastic depth (default: the model's)")
    g.add_argument('--model-kwargs', nargs='*', default={}, action=ModelKwargs, metavar='NAME=VALUE',
                   help='more arguments of the model, such as gate_downsample=True; a recipe gives a mapping')
    g.add_argument('--grad-checkpointing', action=Switch, help='recompute blocks in the backward pass to save memory')
    g.add_argument('--sync-bn', action=Switch, help='take batch statistics over all processes, on CUDA GPUs')
    g.add_argument('--dist-bn', default='reduce', choices=('reduce', 'broadcast', ''),
                   help='how several processes share running statistics after each epoch')


def _add_optimizer_arguments(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group('optimizer and schedule')
    g.add_argument('--epochs', type=int, default=100, metavar='N', help='epochs of the schedule')
    g.add_argument('--grad-accum-steps', type=int, default=1, metavar='N',
                   help='batches per update; the effective batch is batch size x N x processes')
    g.add_argument('--opt', default='sgd', metavar='NAME', help='timm optimizer; sgd is with Nesterov momentum')
    g.add_argument('--opt-eps', type=float, metavar='E', help="eps of the optimizer (default: the optimizer's own)")
    g.add_argument('--opt-betas', type=float, nargs='+', metavar='B',
                   help="betas of the optimizer (default: the optimizer's own)")
    g.add_argument('--opt-kwargs', dest='opt_args', nargs='*', default={}, action=ModelKwargs, metavar='NAME=VALUE',
                   help='more arguments of the optimizer, such as nesterov=False; a recipe gives a mapping, opt_args')
    g.add_argument('--lr', type=float, default=0.1, help='learning rate at the end of the warmup')
    g.add_argument('--layer-decay', type=float, metavar='F', help='factor of the learning rate from a layer to the one '
                   'before it; the classifier has --lr')
    g.add_argument('--gate-lr-scale', type=float, metavar='F', help='factor of the learning rate for the gates '
                   '(gate_weight and gate_bias), for fine-tuning a converted network')
    g.add_argument('--momentum', type=float, default=0.9, metavar='M', help='momentum of the optimizer')
    g.add_argument('--weight-decay', type=float, default=1e-4, metavar='W', help='weight decay of the optimizer')
    g.add_argument('--weight-decay-all', action=Switch,
                   help='decay norms, gates and biases too, as the reference code does')
    g.add_argument('--clip-grad', type=float, metavar='NORM', help='clip the norm of the gradient at NORM')
    g.add_argument('--sched', default='cosine', metavar='NAME', help='timm schedule: cosine, step, multistep, poly, '
                   'tanh, wsd, rsqrt, constant, plateau or none')
    g.add_argument('--sched-on-updates', action=Switch, help='step the schedule after each update, not each epoch')
    g.add_argument('--warmup-epochs', type=int, default=0, metavar='N', help='epochs in which the rate rises to --lr')
    g.add_argument('--warmup-lr', type=float, default=1e-5, metavar='LR',
                   help='learning rate at the start of the warmup')
    g.add_argument('--min-lr', type=float, default=0., help='learning rate at the end of the schedule')
    g.add_argument('--decay-epochs', type=float, metavar='N', help='step schedule: epochs between decays; wsd and '
                   'rsqrt: epochs of the decay at the end, or below 1 their share of the epochs after the warmup '
                   '(default: 90 for step, 0.2 for wsd and rsqrt)')
    g.add_argument('--decay-milestones', type=int, nargs='+', default=[90, 180, 270], metavar='N',
                   help='multistep schedule: epochs of the decays')
    g.add_argument('--decay-rate', type=float, default=0.1, metavar='R', help='factor of one decay; poly: its power')
    g.add_argument('--cooldown-epochs', type=int, default=0, metavar='N', help='epochs at --min-lr after the schedule')
    g.add_argument('--model-ema', action=Switch, help='keep an exponential moving average (EMA) of the weights')
    g.add_argument('--model-ema-decay', type=float, default=0.9998, metavar='D', help='decay of the EMA per update')
    g.add_argument('--model-ema-warmup', action=Switch, help='let the decay of the EMA rise to D in the first updates')


def _add_augmentation_arguments(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group('augmentation and loss')
    g.add_argument('--no-aug', action='store_true', help='resize and crop at the centre, and augment nothing')
    g.add_argument('--aug', dest='no_aug', action='store_false', default=False, help="undo a recipe's no_aug")
    g.add_argument('--aug-repeats', type=int, default=0, metavar='N', help='repeated augmentation: show each image N '
                   'times, dealt over the processes; an epoch has as many updates as without')
    g.add_argument('--train-crop-mode', choices=('pad', 'rrc', 'rkrc', 'rkrr'),
                   help="pad: random crop of the padded image (default up to 64 px); others: timm's (default rrc)")
    g.add_argument('--crop-padding', type=int, default=4, metavar='PX',
                   help='padding of crop mode pad; other crop modes do not use it')
    g.add_argument('--train-interpolation', metavar='NAME', help='interpolation in training: random (bilinear or '
                   'bicubic; not in crop mode pad) or a name (default: --interpolation)')
    g.add_argument('--scale', type=float, nargs=2, metavar=('MIN', 'MAX'),
                   help="share of the image's area that rrc crops, "
                   "or rkrc and rkrr scale to; crop mode pad does not use it (default: timm's)")
    g.add_argument('--ratio', type=float, nargs=2, metavar=('MIN', 'MAX'),
                   help='aspect ratio that rrc crops, or by which rkrc and '
                   "rkrr change it; crop mode pad does not use it (default: timm's)")
    g.add_argument('--hflip', type=float, default=0.5, metavar='P', help='probability of a horizontal flip')
    g.add_argument('--vflip', type=float, default=0., metavar='P', help='probability of a vertical flip')
    g.add_argument('--color-jitter', type=float, metavar='F', help='colour jitter (default: 0.4, in crop mode pad 0)')
    g.add_argument('--aa', metavar='NAME', help="timm's auto augment, such as rand-m9-mstd0.5")
    g.add_argument('--reprob', type=float, default=0., metavar='P', help='probability of random erasing')
    g.add_argument('--mixup', type=float, default=0., metavar='ALPHA', help='mixup; 0 switches it off')
    g.add_argument('--cutmix', type=float, default=0., metavar='ALPHA', help='cutmix; 0 switches it off')
    g.add_argument('--mixup-prob', type=float, default=1., metavar='P', help='probability of mixup or cutmix per batch')
    g.add_argument('--mixup-switch-prob', type=float, default=0.5, metavar='P',
                   help='probability of cutmix in a batch where both are on')
    g.add_argument('--smoothing', type=float, default=0., metavar='E', help='label smoothing')
    g.add_argument('--bce-loss', action=Switch, help='binary cross-entropy over the classes')
    g.add_argument('--bce-target-thresh', type=float, metavar='T',
                   help='with --bce-loss: targets above T count as 1, others as 0')
    g.add_argument('--bce-sum', action=Switch, help='with --bce-loss: sum over the classes instead of their mean')


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    g = parser.add_argument_group('run')
    add_config(g)
    g.add_argument('--output', type=expanded, metavar='RUN', help='directory of the run')
    g.add_argument('--overwrite', action='store_true', help='replace the run that RUN holds')
    g.add_argument('--resume', nargs='?', const='auto', type=expanded, metavar='FILE',
                   help='continue the run in RUN from its last checkpoint, or from FILE; if-any: from the last, or '
                   'begin where RUN holds none (for jobs that are started again with the same command)')
    g.add_argument('--allow-recipe-change', action='store_true', help='resume although flags differ')
    g.add_argument('--seed', type=int, default=42, metavar='N', help='seed of weights, order and augmentation')
    g.add_argument('--cuda-graph', action=Switch, help='run forward and backward of a step as one CUDA graph: the same '
                   'bits, without the time that Python takes to launch them')
    g.add_argument('--deterministic', action=Switch, help='use deterministic algorithms: the same bits on a GPU too')
    g.add_argument('--checkpoint-steps', type=int, metavar='N',
                   help='write a checkpoint every N updates too (default: after every epoch only)')
    g.add_argument('--stop-after', type=float, metavar='MINUTES', help='stop then with a checkpoint and exit code 75; '
                   'the same command with --resume continues')
    g.add_argument('--on-nan', nargs='+', default=['stop'], metavar=('ACTION', 'N'),
                   help='what to do when the loss is not finite: stop (default), or rollback N: return up to N times '
                   'to the last good checkpoint and skip the updates since the last finite loss')
    g.add_argument('--checkpoint-hist', type=int, default=3, metavar='N', help='how many of the best epochs to keep')
    g.add_argument('--eval-metric', default='top1', choices=('top1', 'top5', 'loss'),
                   help='measure by which an epoch is the best')
    g.add_argument('--log-interval', type=int, default=50, metavar='STEPS', help=
                   'on a GPU, steps between two readings of the loss, for the progress and to see that it is finite')
    g.add_argument('--device-data', action=Switch, default=None, help='keep the images of both splits as bytes in the '
                   'memory of the device, and crop, flip and normalize them there: the same bits as from loader '
                   'processes (default: if they are at most 1 GiB and the device can augment them)')
    g.add_argument('--train-split', metavar='NAME', help='folder, tar or split to train on (default: train)')
    g.add_argument('--holdout', type=float, metavar='F', help='hold out this share of each class of the training '
                   'images, by the seed, and evaluate on it')


def train_parser(prog: Optional[str] = None) -> argparse.ArgumentParser:
    """Make the parser of ``train``."""
    parser = Parser(
        prog=prog, description='Train a timm model (IEBN or any other) and leave a run directory: args.yaml, '
        'summary.csv, curves.png, last.pth.tar, model_best.pth.tar. One process, or torchrun --nproc-per-node N.')
    for add in (_add_run_arguments, _add_model_arguments, add_data_arguments, _add_optimizer_arguments,
                _add_augmentation_arguments, add_device_arguments):
        add(parser)
    for extension in extension_classes():
        extension.add_arguments(parser)
    return parser


def validate_parser(prog: Optional[str] = None) -> argparse.ArgumentParser:
    """Make the parser of ``validate``."""
    parser = Parser(prog=prog, description='Measure top-1 and top-5 of a model on labelled images.')
    parser.add_argument('--model', metavar='NAME', help='registered name, local-dir:DIR or hf-hub:ID; with '
                        '--checkpoint of a training run it may be left out')
    parser.add_argument('--checkpoint', type=expanded, metavar='FILE', help='a checkpoint, a state dict or '
                        'safetensors; of an export with the config.json beside it')
    add_use_ema(parser, 'measure the EMA weights of the checkpoint')
    parser.add_argument('--held-out', action=Switch, help='measure on the images that the training of the checkpoint '
                        'held out by its --holdout; --data-dir and --dataset are those of the training')
    parser.add_argument('--train-split', metavar='NAME', help='with --held-out: the --train-split of that training')
    parser.add_argument('--results-file', type=expanded, metavar='FILE', help='write the JSON there too')
    parser.add_argument('--confusion', type=expanded, metavar='DIR', help='write which classes are taken for which: '
                        'confusion.csv, per_class.csv, confusion.png, and worst_1.png, the images of the largest loss')
    parser.add_argument('--log-interval', type=int, default=50, help=argparse.SUPPRESS)
    add_data_arguments(parser, '--held-out or --val-split .', 'those of the weights')
    add_device_arguments(parser)
    return parser


def known_actions(parser: argparse.ArgumentParser) -> Sequence[Any]:
    """Return the flags of a parser that a recipe may set: all but help and config."""
    return [a for a in parser._actions if a.option_strings and a.dest not in ('help', 'config')]
