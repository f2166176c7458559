"""``demo``: train, export, load back and measure on 1,797 real images that come with scikit-learn."""
import argparse
import shutil
import time
from pathlib import Path
from typing import Any, Optional, Sequence

from PIL import Image

from iebn_zoo.util.command_line.flags import expanded
from iebn_zoo.util.command_line.parser import Parser
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.files import atomic_write
from iebn_zoo.util.resources import resource
from iebn_zoo.util.results import check_directory

SIZE = 32
MARK = '.digits'


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = Parser(
        description='Train iebn_resnet20_cifar on the digits of scikit-learn, export it, load it back, measure it.')
    parser.add_argument('--output', type=expanded, default='demo_run', metavar='DIR', help='directory of the demo')
    parser.add_argument('--overwrite', action='store_true', help='replace an earlier demo in DIR')
    parser.add_argument('--epochs', type=int, metavar='N', help="epochs of the training (default: the recipe's)")
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of ``iebn-zoo demo``."""
    args = build_parser().parse_args(argv)
    output = Path(args.output)
    data, run, exported = output / 'data', output / 'run', output / 'export'
    flags = ['--config', str(resource('recipes', 'digits.yaml')), '--data-dir', str(data), '--output', str(run)]
    flags += [] if args.epochs is None else ['--epochs', str(args.epochs)]
    earlier = output.exists() and (not output.is_dir() or any(output.iterdir()))
    if earlier and not (args.overwrite and (data / MARK).is_file()):
        raise UsageError(
            f'{output} is not empty.\nGive another --output, or replace an earlier demo with --overwrite.')
    # an earlier demo is removed when nothing is left to refuse
    check_directory('--output', output, {})
    _check_training(flags, run)
    digits = _load_digits()
    if earlier:
        for directory in (data, run, exported):
            shutil.rmtree(directory, ignore_errors=True)
    started = time.perf_counter()
    write_digits(data, digits)

    from iebn_zoo.commands.hub.export import main as export
    from iebn_zoo.commands.train import main as train
    from iebn_zoo.training.config.arguments import validate_parser
    from iebn_zoo.training.validate import validate

    train(flags)
    export([str(run), '--output', str(exported)])
    results = validate(validate_parser().parse_args(['--model', f'local-dir:{exported}', '--data-dir', str(data)]))
    print(f"\ntest top-1 of the exported model, loaded by timm.create_model('local-dir:{exported}', pretrained=True): "
          f"{results['top1']:.2f} % ({results['top1_count']} of {results['count']})\n"
          f"card   {exported / 'README.md'}\ncurve  {exported / 'curves.png'}\n"
          f'{time.perf_counter() - started:.0f} s')
    return 0


def write_digits(directory: Path, digits: Any = None, held_out: float = 0.2, seed: int = 0) -> None:
    """Write the digits as 32 px PNGs: ``train/<digit>/`` and ``test/<digit>/``, split within each class.

    Args:
        directory: Made if absent.
        digits: What scikit-learn's ``load_digits`` returns; None to load it.
        held_out: Share of each class in ``test``.
        seed: Of the split.

    Raises:
        IEBNZooError: scikit-learn is not installed.
    """
    digits = _load_digits() if digits is None else digits
    from sklearn.model_selection import train_test_split

    numbers = list(range(len(digits.target)))
    _, test = train_test_split(numbers, test_size=held_out, stratify=digits.target, random_state=seed)
    test = set(test)
    for i in numbers:
        folder = directory / ('test' if i in test else 'train') / str(digits.target[i])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[i] * (255 / 16)).round().astype('uint8')
        Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f'{i:04d}.png')
    with atomic_write(directory / MARK, 'w') as file:  # of a complete data set, and of what --overwrite may remove
        file.write(f'{len(numbers)}\n')


def _load_digits() -> Any:
    try:
        from sklearn.datasets import load_digits
    except ImportError as e:
        raise IEBNZooError("the demo's images come with scikit-learn, which is not installed.\n"
                           'Run: pip install scikit-learn') from e
    return load_digits()


def _check_training(flags: Sequence[str], run: Path) -> None:
    """Check the flags of the training, and that no other process is training in ``run``.

    Raises:
        UsageError: A flag has a value that ``train`` refuses, or another process has the lock.
        IEBNZooError: The lock cannot be written.
    """
    from iebn_zoo.commands.train import build_parser as train_parser
    from iebn_zoo.training.config.limits import check_limits
    from iebn_zoo.training.config.recipe import parse_with_recipe
    from iebn_zoo.training.run.lock import RunLock

    check_limits(parse_with_recipe(train_parser(), list(flags)))
    if run.is_dir():
        lock = RunLock()
        lock.acquire(run)
        lock.release()
