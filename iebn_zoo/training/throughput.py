"""Does loading hold training back? The training loop on images from disk beside the same steps on tensors in memory.

    python -m iebn_zoo.training.throughput --model iebn_resnet20_cifar --data-dir data/cifar100 -j 1

The two alternate in one process, because a machine's speed drifts; the figure to quote is the median of the ratios.
"""
import argparse
import itertools
import statistics
import sys
import tempfile
import time
from typing import Any, Dict, Iterator, Optional, Sequence

from iebn_zoo.cli import run
from iebn_zoo.training import setup
from iebn_zoo.training.arguments import train_parser
from iebn_zoo.training.lock import RunLock
from iebn_zoo.training.session import Session
from iebn_zoo.training.trainer import Trainer


def measure(args: argparse.Namespace, steps: int, rounds: int) -> Dict[str, Any]:
    """Images/s from the loader and from memory, round by round.

    Args:
        args: The flags of ``train``.
        steps: Training steps of each kind in a round.
        rounds: Counted rounds, after one that is not.

    Returns:
        ``loader``, ``memory`` (images/s, a list each) and ``ratio`` (the median of loader / memory).
    """
    with tempfile.TemporaryDirectory() as output:
        args.output = output
        session = Session(args, setup.resolve_device(args.device), RunLock())
        trainer, loader = session.trainer, session.train_loader
        if len(loader) < steps:
            raise setup.UsageError(f'an epoch has {len(loader)} steps, expected at least the {steps} of --steps.')
        trainer.model.train()
        # batches of this very loader: same shapes, same memory format, same classes
        memory = itertools.cycle([(x.clone(), y.clone()) for x, y in itertools.islice(iter(loader), 4)])
        speeds: Dict[str, Any] = {'loader': [], 'memory': []}
        epoch = itertools.chain.from_iterable(loader for _ in itertools.count())
        for i in range(rounds + 1):
            for name, batches in (('memory', memory), ('loader', epoch)):
                speed = _images_per_second(trainer, batches, steps)
                if i:
                    speeds[name].append(speed)
        speeds['ratio'] = statistics.median(a / b for a, b in zip(speeds['loader'], speeds['memory'], strict=True))
        return speeds


def _images_per_second(trainer: Trainer, batches: Iterator, steps: int) -> float:
    start, count = time.perf_counter(), 0
    for images, targets in itertools.islice(batches, steps):
        count += len(images)
        float(trainer.step(images, targets))
    return count / (time.perf_counter() - start)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of ``python -m iebn_zoo.training.throughput``."""
    parser = train_parser()
    parser.description = 'Images/s of the training loop, and its ratio to the same steps on tensors in memory.'
    parser.add_argument('--steps', type=int, default=12, help='steps of each kind in a round')
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args(argv)
    speeds = measure(args, args.steps, args.rounds)
    for name in ('loader', 'memory'):
        shown = ' '.join(f'{v:.0f}' for v in speeds[name])
        print(f'{name:<7} {statistics.median(speeds[name]):7.0f} images/s (median; rounds: {shown})')
    print(f"ratio   {speeds['ratio']:7.3f} (median of the rounds' loader / memory)")
    return 0


if __name__ == '__main__':
    sys.exit(run(main))
