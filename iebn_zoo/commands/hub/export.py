"""``export``: turn a run into a directory that is a Hub repository."""
import argparse
from pathlib import Path
from typing import Optional, Sequence

from iebn_zoo.hub.card.card import UNKNOWN
from iebn_zoo.hub.formats.table import FORMATS
from iebn_zoo.hub.package.evaluation import add_evaluation_images, evaluation_images
from iebn_zoo.hub.package.export import export
from iebn_zoo.hub.package.golden import CARD
from iebn_zoo.hub.push.remote_card import license_of
from iebn_zoo.util.command_line.flags import Switch, add_formats, add_use_ema, expanded
from iebn_zoo.util.command_line.parser import Parser


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(
        description='Export a run as a Hub repository: weights, config, card, curve, golden logits. It is loaded back '
        'in a fresh process before it is called done.')
    parser.add_argument('run', type=expanded, metavar='RUN', help='run directory, or one of its checkpoints')
    parser.add_argument('--output', type=expanded, required=True, metavar='DIR', help='directory to write')
    add_use_ema(parser, 'export the EMA weights (default: with --best the weights by which the epoch was ranked, which '
                'are those of the EMA where there is one; otherwise the others)', Switch, default=None)
    parser.add_argument('--best', action='store_true', help='export the best epoch instead of the last')
    add_formats(parser, tuple(FORMATS))
    parser.add_argument('--overwrite', action='store_true', help='replace an earlier export')
    parser.add_argument('--license', metavar='ID', help='Hub id of a license (default: that of the weights the run '
                        'started from, or unknown; for a run from random weights apache-2.0)')
    parser.add_argument('--repo-id', metavar='OWNER/NAME', help="for the card's snippets; push fills it in otherwise")
    parser.add_argument('--dataset-id', metavar='ID', help='Hub id of the training data')
    add_evaluation_images(parser)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of scripts/export.py and of ``iebn-zoo export``."""
    args = build_parser().parse_args(argv)
    images = evaluation_images(args)
    output, difference = export(
        args.run, args.output, ema=args.use_ema, best=args.best, overwrite=args.overwrite, license=args.license,
        repo_id=args.repo_id, dataset_id=args.dataset_id, formats=args.formats, images=images)
    print(f'weights  {output / "model.safetensors"}\n'
          + ''.join(f'format   {output / FORMATS[name].file}\n' for name in dict.fromkeys(args.formats)) +
          f'card     {output / "README.md"}\n'
          f'curve    {output / "curves.png"}\n'
          f'license  {_license(output)}\n'
          f'loaded back in a fresh process: logits differ from golden.safetensors by at most {difference:.3g}')
    return 0


def _license(output: Path) -> str:
    found = license_of((output / CARD).read_text(encoding='utf-8'))
    return found or 'none' if found != UNKNOWN else (
        f'{UNKNOWN}, because the run started from weights of an unknown license; give --license')
