"""``predict``: tell the most probable classes of image files."""
import argparse
import sys
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import List, Optional, Sequence

from iebn_zoo.data.formats import CorruptImageError, image_suffixes, is_image_name
from iebn_zoo.plots.contact_sheet import KIND, Cell, sheet_names, write_contact_sheets
from iebn_zoo.prediction.paths import image_paths
from iebn_zoo.prediction.predict import Prediction, Predictor, predictions
from iebn_zoo.prediction.source import open_source
from iebn_zoo.prediction.tables import CSV, JSON, as_csv, as_json, as_table
from iebn_zoo.util.command_line.flags import Switch, add_device, add_use_ema, expanded
from iebn_zoo.util.command_line.parser import Parser
from iebn_zoo.util.device import resolve_device
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.files import write_text
from iebn_zoo.util.progress import Progress
from iebn_zoo.util.results import check_directory, check_file

_STDOUT = '-'


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(description='Tell the most probable classes of images, as a table.')
    parser.add_argument('source', type=expanded, metavar='SOURCE', help='directory of a run or of an export, file of '
                        'weights, local-dir:DIR, hf-hub:ID, or name with weights such as iebn_resnet50.bn_a1_in1k')
    parser.add_argument('images', type=expanded, nargs='+', metavar='IMAGE', help='image files, directories, or '
                        "patterns such as 'photos/*.jpg'")
    parser.add_argument('-k', '--top-k', type=int, default=5, metavar='K', help='classes per image')
    parser.add_argument('--csv', type=expanded, metavar='FILE', help='write CSV; - prints it instead of the table')
    parser.add_argument('--json', type=expanded, metavar='FILE', help='write JSON; - prints it instead of the table')
    parser.add_argument('--save', type=expanded, metavar='DIR', help='draw the images with their labels: '
                        'DIR/contact_sheet_1.png, ...')
    parser.add_argument('--best', action='store_true', help='take the best epoch of a run instead of the last')
    add_use_ema(parser, 'take the EMA weights of a run')
    parser.add_argument('-b', '--batch-size', type=int, default=32, metavar='N', help='images per batch')
    add_device(parser)
    parser.add_argument('--skip-corrupt', action=Switch,
                        help='skip images that cannot be decoded (default: stop and name the first)')
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of scripts/predict.py and of ``iebn-zoo predict``."""
    args = build_parser().parse_args(argv)
    for flag in ('top_k', 'batch_size'):
        if getattr(args, flag) < 1:
            raise UsageError(f"--{flag.replace('_', '-')} is {getattr(args, flag)}, expected at least 1.")
    for flag, place in (('csv', args.csv), ('json', args.json)):
        if place is not None and is_image_name(place, image_suffixes()):
            raise UsageError(f'--{flag} {place} would write over an image.\nGive a file such as predictions.{flag}.')
    if args.csv == args.json == _STDOUT:
        raise UsageError('--csv and --json cannot both take the place of the table.\nGive one of them a FILE.')
    places = {f'--{flag}': Path(getattr(args, flag)).absolute() for flag in ('csv', 'json', 'save')
              if getattr(args, flag) not in (None, _STDOUT)}
    for flag, other in combinations(places, 2):
        if places[flag] == places[other]:
            raise UsageError(f'{places[flag]} is the place of {flag} and of {other}.\nGive each a place of its own.')
    paths = image_paths(args.images)
    for flag, place, kind in (('csv', args.csv, CSV), ('json', args.json, JSON)):
        if place not in (None, _STDOUT):
            check_file(f'--{flag}', place, kind)
    if args.save:
        check_directory('--save', args.save, dict.fromkeys(sheet_names(len(paths)), KIND))
    network = open_source(args.source, args.best, args.use_ema)
    print(network.description, file=sys.stderr, flush=True)
    device = resolve_device(args.device)
    network.model.to(device)
    predictor = Predictor(network, device)
    skipped: Optional[List[CorruptImageError]] = [] if args.skip_corrupt else None
    try:
        found = list(predictions(predictor, Progress(paths, 'predict'), args.top_k, args.batch_size, skipped))
    except CorruptImageError as e:
        raise e.with_flag() from e
    for error in skipped or []:
        print(f'skipped: {str(error).splitlines()[0]}', file=sys.stderr)
    if not found:
        raise IEBNZooError('no image could be decoded.\nGive other images.')
    _write(args, found)
    if args.save:
        cells = [partial(_cell, predictor, p) for p in found]
        for path in write_contact_sheets(Path(args.save), cells):
            print(f'wrote {path}', file=sys.stderr)
    return 0


def _write(args: argparse.Namespace, found: Sequence[Prediction]) -> None:
    shown = as_table(found) + '\n'
    texts = (args.csv, as_csv(found)), (args.json, as_json(found))
    try:
        for place, text in texts:
            if place not in (None, _STDOUT):
                write_text(place, text)
    finally:  # the disk may be full by now
        print(next((text for place, text in texts if place == _STDOUT), shown), end='')


def _cell(predictor: Predictor, p: Prediction) -> Cell:
    said = [f'{100 * value:.1f} % {label}' for value, label in zip(p.probabilities[:2], p.labels, strict=False)]
    return predictor.open(p.image), [*said, Path(p.image).name]
