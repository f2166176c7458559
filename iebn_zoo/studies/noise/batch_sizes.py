"""Measures the batch noise of trained networks in batches of several sizes.

    python -m iebn_zoo.studies.noise.batch_sizes zoo/bn/seed0 zoo/iebn/seed0 --data-dir data/cifar100 --output noise.csv

A small batch has noisier statistics. The weights stay as they are: what differs is the batch that an image is in.
Every network and size gets the same probe images.
"""
import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import yaml

from iebn_zoo.data.formats import image_mode
from iebn_zoo.data.images import open_images
from iebn_zoo.studies.noise.log import COLUMNS
from iebn_zoo.studies.noise.measure import measure_batch_noise
from iebn_zoo.studies.noise.probes import ProbeBatches
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.limits import check_limits
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.training.run.checkpoint import LAST
from iebn_zoo.training.run.records import ARGS
from iebn_zoo.util.command_line.flags import add_device, expanded
from iebn_zoo.util.command_line.main import run as run_main
from iebn_zoo.util.command_line.parser import Parser, RawHelpFormatter
from iebn_zoo.util.csv_files import CSVError, read_csv, write_csv
from iebn_zoo.util.device import resolve_device
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.results import ANYTHING, check_file
from iebn_zoo.weights.open import open_network

FILE = 'batch_sizes.csv'
SIZES = (8, 32, 128)
_EXPORTED = 'model.safetensors'
_MEASURED = COLUMNS[1:]  # without the epoch
_HEADER = ('arm', 'seed', 'batch_size', *_MEASURED)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; return 0."""
    parser = Parser(prog='python -m iebn_zoo.studies.noise.batch_sizes', description=__doc__,
                    formatter_class=RawHelpFormatter)
    parser.add_argument('runs', nargs='+', type=_named, metavar='[ARM=]DIR', help='directory of a run, ARM/seedN, or '
                        'of an export; ARM is the name in the file (default: that of the directory)')
    parser.add_argument('--data-dir', type=expanded, required=True, metavar='DIR', help='data of the training')
    parser.add_argument('--dataset', default='', metavar='NAME', help="timm's name of the dataset (default: a folder "
                        'or tar)')
    parser.add_argument('--batch-sizes', nargs='+', type=int, default=list(SIZES), metavar='B',
                        help=f'images per batch (default: {" ".join(map(str, SIZES))})')
    parser.add_argument('--probes', type=int, default=64, metavar='N', help='probe images (default: 64)')
    parser.add_argument('--rounds', type=int, default=16, metavar='R', help='batches per probe image (default: 16)')
    parser.add_argument('--seed', type=int, default=0, metavar='S', help='seed of the choice of images (default: 0)')
    parser.add_argument('--output', type=Path, default=Path(FILE), metavar='CSV', help=f'default: {FILE}')
    parser.add_argument('--overwrite', action='store_true', help='replace CSV')
    add_device(parser)
    args = parser.parse_args(argv)
    _check(args)
    rows: List[Dict[str, Any]] = []
    for arm, run in args.runs:
        for size in sorted(args.batch_sizes, reverse=True):  # what has too few images for the largest shows at once
            found = measure_run(run, size, args)
            rows += [dict(row, arm=arm) for row in found]
            mean = sum(row['batch_noise'] for row in found) / len(found)
            print(f'{run}: batch size {size}, mean batch noise of {len(found)} norms {mean:.4g}', flush=True)
        write_csv(args.output, rows, _HEADER)  # after each run, so that nothing is lost
    return 0


def measure_run(run: Path, batch_size: int, args: argparse.Namespace) -> List[Dict[str, Any]]:
    """Measure each norm of the last weights of a run, or of those of an export, in batches of one size.

    Args:
        run: Directory of the run or export.
        batch_size: Images per batch.
        args: ``data_dir``, ``dataset``, ``probes``, ``rounds``, ``seed`` and ``device``.

    Returns:
        One row per norm, as in the file without the arm, which the command line tells.

    Raises:
        UsageError: There is nothing of both, or the images do not fit.
    """
    network = open_network(checkpoint=run / LAST) if (run / LAST).is_file() else open_network(f'local-dir:{run}')
    device, mode = resolve_device(args.device), image_mode(network.data_config['input_size'][0], network.shown)
    images = open_images(args.dataset, args.data_dir, True, mode=mode)
    if args.probes + batch_size > len(images):
        raise UsageError(f'--batch-sizes {batch_size} and --probes {args.probes} need {batch_size + args.probes} '
                         f'images, and the training split has {len(images)}.\nGive smaller ones.')
    flags = train_parser().parse_args([])
    flags.seed, flags.batch_size, flags.workers = args.seed, batch_size, 0
    batches = ProbeBatches(images, args.probes, args.rounds, TrainSettings.from_flags(flags), network.data_config,
                           device)
    layers = measure_batch_noise(network.model.to(device), batches, args.probes)
    about = dict(seed=_seed(run), batch_size=batch_size)
    return [{**about, **{name: getattr(layer, name) for name in _MEASURED}} for layer in layers]


def read_rows(path: Path) -> List[Dict[str, Any]]:
    """Read the rows that the command wrote.

    Raises:
        UsageError: The file is missing or damaged.
    """
    kinds = dict(dict.fromkeys(_HEADER, float), arm=str, layer=str, seed=int, batch_size=int, channels=int)
    try:
        rows = read_csv(path, kinds, rest=str)
        return [{name: row.get(name) if name == 'seed' else row[name] for name in _HEADER} for row in rows]
    except (OSError, KeyError, TypeError, ValueError, CSVError) as e:
        raise UsageError(f'{path} cannot be read: {e}.\nExpected the columns {", ".join(_HEADER)}.') from e


def _check(args: argparse.Namespace) -> None:
    check_limits(argparse.Namespace(seed=args.seed))
    if args.output.exists() and not args.overwrite:
        raise UsageError(f'{args.output} exists.\nGive another --output, or replace it with --overwrite.')
    check_file('--output', args.output, ANYTHING)
    for name, values, least in (('batch-sizes', args.batch_sizes, 2), ('rounds', [args.rounds], 2),
                                ('probes', [args.probes], 2)):
        bad = next((value for value in values if value < least), None)
        if bad is not None:
            raise UsageError(f'--{name} is {bad}, expected at least {least}: a variance needs two values.')
    missing = next((run for _, run in args.runs if not any((run / name).is_file() for name in (LAST, _EXPORTED))), None)
    if missing is not None:
        raise UsageError(f'{missing} has neither {LAST} nor {_EXPORTED}.\n'
                         f'Expected the directory of a run or an export.')


def _named(word: str) -> Tuple[str, Path]:
    arm, equals, place = word.partition('=')
    if equals and not Path(expanded(word)).exists():  # a directory may have a = in its name
        return arm, Path(expanded(place))
    run = Path(expanded(word))
    own = run.resolve()
    return own.parent.name if own.name.startswith('seed') else own.name, run


def _seed(run: Path) -> Optional[int]:
    try:
        seed = yaml.safe_load((run / ARGS).read_text(encoding='utf-8')).get('seed')
    except (OSError, AttributeError, yaml.YAMLError):
        return None
    return seed if isinstance(seed, int) else None


if __name__ == '__main__':
    sys.exit(run_main(main))
