"""``gates``: show the gates of an IEBN network for given images, as a picture and as CSV."""
import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

from iebn_zoo.plots.gates import KIND, draw_image_gates
from iebn_zoo.prediction.gates import CSV, as_csv, depend_on_images, gates_in_words, gates_of
from iebn_zoo.prediction.paths import image_paths
from iebn_zoo.prediction.predict import Predictor
from iebn_zoo.prediction.source import open_source
from iebn_zoo.util.command_line.flags import add_device, add_use_ema, expanded
from iebn_zoo.util.command_line.parser import Parser
from iebn_zoo.util.device import resolve_device
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.files import write_text
from iebn_zoo.util.results import check_directory

_AT_ONCE = 256
_DRAWN = 8
PICTURE, TABLE = 'gates.png', 'gates.csv'


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(
        description=f'Show the gates that images open in each layer of an IEBN network: {PICTURE} has the first '
        f'{_DRAWN} images, and {TABLE} has all.')
    parser.add_argument('source', type=expanded, metavar='SOURCE', help='directory of a run or of an export, file of '
                        'weights, local-dir:DIR, hf-hub:ID, or name with weights such as iebn_resnet50.bn_a1_in1k')
    parser.add_argument('images', type=expanded, nargs='+', metavar='IMAGE', help='image files, directories, or '
                        f"patterns such as 'photos/*.jpg'; at most {_AT_ONCE}")
    parser.add_argument('--output', type=expanded, default='.', metavar='DIR', help='directory to write to')
    parser.add_argument('--best', action='store_true', help='take the best epoch of a run instead of the last')
    add_use_ema(parser, 'take the EMA weights of a run')
    add_device(parser)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of ``iebn-zoo gates``."""
    args = build_parser().parse_args(argv)
    paths = image_paths(args.images)
    if len(paths) > _AT_ONCE:
        raise UsageError(f'{len(paths)} images, expected at most {_AT_ONCE}.\nGive fewer; train --gate-stats follows '
                         f'the gates of a run.')
    check_directory('--output', args.output, {PICTURE: KIND, TABLE: CSV})
    network = open_source(args.source, args.best, args.use_ema)
    print(network.description, file=sys.stderr, flush=True)
    device = resolve_device(args.device)
    network.model.to(device)
    predictor = Predictor(network, device)
    opened = [predictor.open(path) for path in paths]
    gates, probabilities = gates_of(predictor, opened)
    output = Path(args.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise IEBNZooError(f'cannot make {output}: {e.strerror or e}.\nGive --output a writable place.') from e
    write_text(output / TABLE, as_csv(gates, paths))
    best, classes = probabilities.max(1)
    names = predictor.label_names
    titles = [f'{names[c] if names else c}\n{100 * p:.1f} %' for c, p in zip(classes.tolist(), best.tolist(),
                                                                            strict=True)]
    draw_image_gates(
        output / PICTURE, opened[:_DRAWN], titles[:_DRAWN], {k: v[:_DRAWN].numpy() for k, v in gates.items()},
        f'{network.arch}: the gates of {_images(min(len(paths), _DRAWN))}')
    said = gates_in_words(gates, depend_on_images(network.model))
    print(f'{len(gates)} layers, {_images(len(paths))}; {said}\n'
          f'wrote {output / PICTURE} and {output / TABLE}')
    return 0


def _images(number: int) -> str:
    return f'{number} image{"" if number == 1 else "s"}'
