"""``iebn-zoo train``: train a network and leave a run directory."""
import argparse
import sys
from typing import Optional, Sequence

from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.recipe import parse_with_recipe
from iebn_zoo.training.train import train
from iebn_zoo.util.command_line.flags import expanded
from iebn_zoo.util.errors import UsageError


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = train_parser()
    parser.add_argument('data', nargs='?', type=expanded, metavar='DATA_DIR', help="the same as --data-dir, as timm's")
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of scripts/train.py and of ``iebn-zoo train``."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_with_recipe(build_parser(), argv)
    data = vars(args).pop('data')
    if data is not None:
        if any(word.partition('=')[0] == '--data-dir' for word in argv) and data != args.data_dir:
            raise UsageError(f'DATA_DIR is {data}, and --data-dir is {args.data_dir}.\nGive one of them.')
        args.data_dir = data
    for name in ('model', 'data_dir', 'output'):
        if not getattr(args, name):
            flag = name.replace('_', '-')
            raise UsageError(f'no --{flag} given.\nExpected at least --model, --data-dir and --output.')
    train(args, argv)
    return 0
