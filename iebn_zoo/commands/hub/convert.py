"""``convert``: turn BN weights into an IEBN network, an IEBN network into BN, or fold trained gates into BatchNorm."""
import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

from iebn_zoo.hub.convert.convert import FOLD, Conversion, fold, to_bn, to_iebn
from iebn_zoo.hub.convert.directory import write_conversion
from iebn_zoo.hub.convert.fold_images import open_fold_images
from iebn_zoo.hub.convert.tune import fold_to_tune, planned_tuning, tune, tuning_line
from iebn_zoo.hub.formats.table import FORMATS, Format, chosen_formats
from iebn_zoo.hub.package.directory import check_output
from iebn_zoo.hub.package.ids import check_ids
from iebn_zoo.hub.package.source import Source, open_source
from iebn_zoo.training.config.arguments import add_data_arguments, train_parser
from iebn_zoo.training.config.input_size import settle_input_size
from iebn_zoo.training.config.limits import check_limits
from iebn_zoo.util.command_line.flags import ModelKwargs, add_device, add_formats, add_use_ema, expanded
from iebn_zoo.util.command_line.parser import Parser, RawHelpFormatter
from iebn_zoo.util.device import resolve_device
from iebn_zoo.util.errors import UsageError

_CALIBRATION_IMAGES = 2048
_EXAMPLES = """examples:
  BN weights into an IEBN network, a start for fine-tuning; it computes the same:
    %(prog)s --model resnet50.a1_in1k --pretrained --output export/iebn_resnet50
    %(prog)s --model resnet50 --checkpoint resnet50.safetensors --output export/iebn_resnet50
    %(prog)s --model hf-hub:OWNER/NAME --output export/mine
  back, as long as no gate has been trained:
    %(prog)s --model local-dir:export/iebn_resnet50 --to-bn --output export/resnet50
  trained gates into BatchNorm, an approximation with a report of how good it is:
    %(prog)s --checkpoint output/r20/last.pth.tar --fold --dataset torch/cifar100 --data-dir data --output export/folded
  the same, and three epochs in which the BatchNorm network learns to do without its gates:
    %(prog)s --checkpoint output/r20/last.pth.tar --fold --tune-epochs 3 --dataset torch/cifar100 --data-dir data \\
        --output export/tuned
"""


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(
        description='Convert a BatchNorm network into an IEBN network that computes the same (the default), the other '
        'way round (--to-bn), or fold trained gates into BatchNorm (--fold). The output is a directory that is a Hub '
        'repository; it is loaded back in a fresh process before it is called done.',
        epilog=_EXAMPLES, formatter_class=RawHelpFormatter)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument('--to-bn', action='store_true', help='convert IEBN to BN, exactly: all gate_weight must be zero')
    kind.add_argument('--fold', action='store_true', help='convert IEBN to BN, with each gate at its mean over images')
    g = parser.add_argument_group('source')
    g.add_argument('--model', metavar='NAME', help='registered name, hf-hub:ID or local-dir:DIR; with --checkpoint '
                   'of a training run it may be left out')
    g.add_argument('--pretrained', action='store_true', help='take the pretrained weights of a registered name')
    g.add_argument('--checkpoint', type=expanded, metavar='FILE',
                   help='.safetensors, a state dict, or a checkpoint of a training run')
    add_use_ema(g, 'take the EMA weights of the checkpoint')
    g.add_argument('--model-kwargs', nargs='+', action=ModelKwargs, default={}, metavar='KEY=VALUE',
                   help='further arguments of the network that the checkpoint is of')
    g.add_argument('--gate-shortcuts', action='store_true', help='gate the norms of the shortcuts too')
    g = parser.add_argument_group('output')
    g.add_argument('--output', type=expanded, required=True, metavar='DIR', help='directory to write')
    add_formats(g, tuple(FORMATS))
    g.add_argument('--overwrite', action='store_true', help='replace an earlier export or conversion')
    g.add_argument('--license', metavar='ID', help="Hub id of a license (default: the source's, or unknown)")
    g.add_argument('--base-model', metavar='ID', help="Hub id of the source's weights, if it is not an hf-hub: model")
    g.add_argument('--repo-id', metavar='OWNER/NAME', help="for the card's snippets; push fills it in otherwise")
    g.add_argument('--dataset-id', metavar='ID', help='Hub id of the data that the weights were trained on')
    g = parser.add_argument_group('fold')
    g.add_argument('--calibration-images', type=int, metavar='N',
                   help='images of the training split to average the gates over '
                   f'(default: {_CALIBRATION_IMAGES})')
    g.add_argument('--held-out-images', type=int, metavar='N',
                   help='images of the evaluation split to compare on (default: all)')
    g.add_argument('--train-split', metavar='NAME', help='folder, tar or split to average the gates over and tune on; '
                   'that of the training, if its --holdout held images out (default: train)')
    g.add_argument('--tune-epochs', type=int, metavar='N', help='fine-tune the folded network for N epochs, with the '
                   'settings of the training run that --checkpoint is of, or else with the defaults of train and with '
                   '--batch-size; an interrupted one goes on when the same command is given again')
    g.add_argument('--tune-lr', type=float, metavar='LR', help='learning rate at the start of the fine-tuning '
                   '(default: a tenth of that of the training run; that of --tune-config)')
    g.add_argument('--tune-config', type=expanded, metavar='FILE', help='recipe of the fine-tuning, in place of the '
                   'settings of the training run; a note names what of it is not used, such as its model')
    add_device(g)
    add_data_arguments(parser, 'the weights of a run that held images out', 'those of the weights')
    parser.set_defaults(batch_size=None)  # whether it was given counts for the fine-tuning
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of scripts/convert.py and of ``iebn-zoo convert``."""
    args = build_parser().parse_args(argv)
    output = Path(args.output)
    args.tune_batch_size = args.batch_size
    if args.batch_size is None:
        args.batch_size = train_parser().get_default('batch_size')
    _check_flags(args)
    check_limits(args)
    settle_input_size(args)
    check_ids(args.license, args.repo_id, args.dataset_id, args.base_model)
    check_output(output, args.overwrite)
    formats = chosen_formats(args.formats)
    source = open_source(args)
    if args.tune_epochs is None:
        _finish(args, _convert(args, source), source, output, formats)
        return 0
    calibration, held_out, data = open_fold_images(args, source, resolve_device(args.device))
    with planned_tuning(args, source, output) as tuning:
        conversion = fold_to_tune(tuning, source, calibration, held_out, data, args)
        _print_report(source, conversion)
        conversion = tune(tuning, conversion, source, held_out)
        check_output(output, args.overwrite)  # again: the training may have taken days
        _finish(args, conversion, source, output, formats)
        tuning.place.remove()
    return 0


def _finish(args: argparse.Namespace, conversion: Conversion, source: Source, output: Path,
            formats: Sequence[Format]) -> None:
    _, difference = write_conversion(
        conversion, source, output, license=args.license, base_model=args.base_model, repo_id=args.repo_id,
        dataset_id=args.dataset_id, formats=formats)
    if conversion.tuning is not None:
        print(f'\n{tuning_line(conversion.figures)}')
    print(f'\n{conversion.arch} in {output}: weights, config.json, card, golden logits, report'
          f'{", gates.png" if conversion.kind == FOLD else ""}{"".join(f", {f.file}" for f in formats)}\n'
          f'loaded back in a fresh process: logits differ from golden.safetensors by at most {difference:.3g}')


def _check_flags(args: argparse.Namespace) -> None:
    if args.fold and not args.data_dir:
        raise UsageError('--fold averages the gates over images: no --data-dir given.\n'
                         'Expected a directory with a training and an evaluation split.')
    if not args.fold and (args.data_dir or args.dataset or args.train_split):
        raise UsageError('--data-dir, --dataset and --train-split are for --fold: the others need no images.\n'
                         'Leave them out, or add --fold.')
    for name in ('calibration_images', 'held_out_images', 'tune_epochs', 'tune_lr', 'tune_config'):
        flag = f"--{name.replace('_', '-')}"
        if getattr(args, name) is not None and not args.fold:
            raise UsageError(f'{flag} is for the network that --fold makes.\nAdd --fold, or leave {flag} out.')
        if getattr(args, name) is not None and args.tune_epochs is None and name.startswith('tune'):
            raise UsageError(f'{flag} says how to fine-tune, and no --tune-epochs says how long.\n'
                             f'Add --tune-epochs N, such as 3.')
    if args.calibration_images is None:
        args.calibration_images = _CALIBRATION_IMAGES
    if args.gate_shortcuts and (args.fold or args.to_bn):
        raise UsageError('--gate-shortcuts is for the conversion of BN to IEBN.\nLeave it out.')


def _convert(args: argparse.Namespace, source: Source) -> Conversion:
    if args.fold:
        device = resolve_device(args.device)
        calibration, held_out, data = open_fold_images(args, source, device)
        conversion = fold(source, calibration, held_out, device, data)
    else:
        conversion = to_bn(source) if args.to_bn else to_iebn(source, args.gate_shortcuts)
    _print_report(source, conversion)
    return conversion


def _print_report(source: Source, conversion: Conversion) -> None:
    print(source.description, file=sys.stderr, flush=True)
    print(conversion.report, flush=True)
