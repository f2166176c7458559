"""How much loading slows training: the training loop on images from disk, or in the memory of the device, beside the
same steps on tensors.

    python -m iebn_zoo.studies.benchmark.throughput --model iebn_resnet20_cifar --data-dir data/cifar100 -j 1

Both alternate in one process, because a machine's speed drifts. The figure to quote is the median of the ratios.
"""
import argparse
import itertools
import statistics
import sys
import tempfile
import time
from typing import Any, Dict, Iterable, Iterator, Optional, Sequence

from iebn_zoo.data.device_loader import DeviceLoader
from iebn_zoo.data.loader import make_loader
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.training.engine.build import build
from iebn_zoo.training.engine.plan import make_plan
from iebn_zoo.training.engine.update import Trainer
from iebn_zoo.training.run.lock import RunLock
from iebn_zoo.util.command_line.main import run
from iebn_zoo.util.device import resolve_device
from iebn_zoo.util.errors import UsageError


def measure(args: argparse.Namespace, steps: int, rounds: int) -> Dict[str, Any]:
    """Measure images/s from the loader, from images in the memory of the device, and from tensors, round by round.

    Args:
        args: The flags of ``train``.
        steps: Training steps of each kind in a round.
        rounds: Counted rounds, after one that is not.

    Returns:
        ``tensors``, ``loader`` and, if the images are there, ``device`` (images/s, a list each), and ``ratios``: of
        each other kind the median of its images/s divided by those on tensors.
    """
    with tempfile.TemporaryDirectory() as output:
        args.output = output
        plan = make_plan(TrainSettings.from_flags(args), resolve_device(args.device))
        built = build(plan, RunLock())
        trainer, given = built.trainer, built.train_loader
        if given.batches_per_epoch < steps:
            raise UsageError(f'an epoch has {given.batches_per_epoch} steps, expected at least the {steps} of '
                                   f'--steps.')
        trainer.model.train()
        loader = make_loader(given.dataset.images, plan.args, built.data_config, built.device, train=True)
        # batches of this very loader: same shapes, same memory format, same classes
        tensors = [(x.clone(), y.clone()) for x, y in itertools.islice(iter(loader), 4)]
        sources = {'tensors': itertools.cycle(tensors), 'loader': _without_end(loader)}
        if isinstance(given, DeviceLoader):
            sources['device'] = _without_end(given)
        speeds: Dict[str, Any] = {name: [] for name in sources}
        for i in range(rounds + 1):
            for name, batches in sources.items():
                speed = _images_per_second(trainer, batches, steps)
                if i:
                    speeds[name].append(speed)
        speeds['ratios'] = {
            name: statistics.median(a / b for a, b in zip(speeds[name], speeds['tensors'], strict=True))
            for name in sources if name != 'tensors'}
        return speeds


def _without_end(loader: Iterable) -> Iterator:
    return itertools.chain.from_iterable(loader for _ in itertools.count())


def _images_per_second(trainer: Trainer, batches: Iterator, steps: int) -> float:
    start, count = time.perf_counter(), 0
    for images, targets in itertools.islice(batches, steps):
        count += len(images)
        float(trainer.step(images, targets))
    return count / (time.perf_counter() - start)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of ``python -m iebn_zoo.studies.benchmark.throughput``."""
    parser = train_parser()
    parser.description = 'Images/s of the training loop, and its ratio to the same steps on tensors in memory.'
    parser.add_argument('--steps', type=int, default=12, metavar='N', help='steps of each kind per round')
    parser.add_argument('--rounds', type=int, default=5, metavar='N', help='counted rounds')
    args = parser.parse_args(argv)
    speeds = measure(args, args.steps, args.rounds)
    ratios = speeds.pop('ratios')
    for name, values in speeds.items():
        shown = ' '.join(f'{v:.0f}' for v in values)
        print(f'{name:<8} {statistics.median(values):7.0f} images/s (median; rounds: {shown})')
    for name, ratio in ratios.items():
        print(f'{name:<8} {ratio:7.3f} (median of the rounds\' images/s divided by those on tensors)')
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
