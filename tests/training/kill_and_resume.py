"""Kill a real training run again and again, resume it, and compare what it leaves with the uninterrupted run's.

    python -m tests.training.kill_and_resume --kills 30 --seed 0 [--workers 2] [--processes 2]

Each life of the run draws where it dies: after a random time, in the write of a checkpoint (its temporary file is
there), between that write and the copies that follow it, in the evaluation (an image of the test split is opened), or
while a resume puts the directory in order. SIGKILL, to every process of it. Weights, EMA, optimizer, generators,
summary.csv and the best epoch must then be the same bits.
"""
import argparse
import collections
import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import torch

from iebn_zoo.training.run.checkpoint import BEST, LAST, load_checkpoint
from iebn_zoo.training.run.lock import LOCK
from tests.support.paths import ROOT
from tests.support.training.datasets import write_folder

SCRIPT = ROOT / 'scripts' / 'train.py'
# every source of randomness and every kind of state: dropout, stochastic depth, erasing, mixup, auto augment, EMA
RECIPE = ('--model', 'iebn_resnet20_cifar', '--img-size', '16', '--batch-size', '8', '--lr', '0.05', '--drop', '0.2',
          '--drop-path', '0.1', '--reprob', '0.3', '--mixup', '0.2', '--cutmix', '0.5', '--aa', 'rand-m5-mstd0.5',
          '--model-ema', '--model-ema-decay', '0.9', '--sched-on-updates', '--warmup-epochs', '1',
          '--grad-accum-steps', '2', '--checkpoint-steps', '2', '--checkpoint-hist', '2', '--device', 'cpu')
PLACES = ('time', 'write', 'copy', 'evaluation', 'resume')
COMPARED = ('epoch', 'updates', 'position', 'state_dict', 'state_dict_ema', 'optimizer', 'rng', 'rows', 'best', 'kept',
            'metrics', 'skipped')


def differences(a: Any, b: Any, where: str = '') -> List[str]:
    """The places where two nested values differ, bit for bit."""
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for k in a for d in differences(a[k], b[k], f'{where}.{k}')]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f'{where}[{i}]')]
    return [] if a == b or (a != a and b != b) else [where]


def compare_runs(a: Path, b: Path) -> List[str]:
    """What differs between two finished runs that must be the same; empty if nothing does."""
    found = [] if (a / 'summary.csv').read_bytes() == (b / 'summary.csv').read_bytes() else ['summary.csv']
    names = [sorted(p.name for p in run.glob('*.pth.tar')) for run in (a, b)]
    if names[0] != names[1]:
        return [*found, f'files: {names[0]} and {names[1]}']
    for name in names[0]:
        left, right = load_checkpoint(a / name), load_checkpoint(b / name)
        found += [f'{name}{d}' for k in COMPARED for d in differences(left[k], right[k], f'.{k}')]
    left_over = sorted(p.name for p in b.glob('.*') if p.name != LOCK)  # the lock's file stays, unlocked
    return found + [f'left over: {name}' for name in left_over]


class Victim:
    """A training run that is started, watched and killed.

    Args:
        data: Image folder.
        run: Run directory.
        flags: Of training, but for those two.
        processes: 2 or more: under torchrun.
    """

    def __init__(self, data: Path, run: Path, flags: Sequence[str], processes: int = 1) -> None:
        self.data, self.run = data, run
        launcher = [sys.executable]
        if processes > 1:
            launcher += ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(processes)]
        self.command = [*launcher, str(SCRIPT), '--data-dir', str(data), '--output', str(run), *flags]

    def start(self) -> subprocess.Popen:
        resume = ['--resume'] if (self.run / LAST).exists() else ['--overwrite']
        path = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get('PYTHONPATH', '')])
        env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=path)
        return subprocess.Popen([*self.command, *resume], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True)

    def finish(self) -> str:
        """Let it run to its end; returns what it said."""
        process = self.start()
        said, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f'the run failed:\n{said}')
        return said

    def die(self, place: str, rng: random.Random, seconds: float) -> Optional[str]:
        """Start it and kill it.

        Args:
            place: One of ``PLACES``.
            rng: Draws the moment.
            seconds: The longest wait once it trains, for ``time``.

        Returns:
            Where it was hit, or None if it had ended.
        """
        before = self._stamps()
        process = self.start()
        self._until(process, lambda: self._stamps() != before if place == 'resume' else self._trains(before))
        where = getattr(self, f'_{place}')(process, rng, seconds)
        alive = process.poll() is None
        if alive:
            for pid in _family(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        said, _ = process.communicate()
        if process.returncode not in (0, -signal.SIGKILL):
            raise RuntimeError(f'the run failed:\n{said}')
        return where if alive else None

    def _stamps(self) -> Dict[str, int]:
        stamps = {}
        for path in self.run.glob('*') if self.run.is_dir() else []:
            try:
                stamps[path.name] = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
        return stamps

    def _until(self, process: subprocess.Popen, condition: Any) -> None:
        while process.poll() is None and not condition():
            time.sleep(0.0005)

    def _trains(self, before: Dict[str, int]) -> bool:
        # environment.json is written when everything is built; a resumed run writes it again
        return self._stamps().get('environment.json') not in (None, before.get('environment.json'))

    def _within(self, process: subprocess.Popen, rng: random.Random, seconds: float) -> None:
        end = time.monotonic() + rng.uniform(0, seconds)
        self._until(process, lambda: time.monotonic() >= end)

    def _time(self, process: subprocess.Popen, rng: random.Random, seconds: float) -> str:
        self._within(process, rng, seconds)
        return 'any moment'

    def _resume(self, process: subprocess.Popen, rng: random.Random, seconds: float) -> str:
        self._within(process, rng, 0.02)
        return 'start, while the directory is put in order'

    def _write(self, process: subprocess.Popen, rng: random.Random, seconds: float) -> str:
        for _ in range(rng.randint(1, 3)):  # not always the first one
            self._until(process, lambda: not any(self.run.glob('.*.pth.tar.*.tmp')))
            self._until(process, lambda: any(self.run.glob('.*.pth.tar.*.tmp')))
        self._within(process, rng, 0.004)
        inside = any(self.run.glob('.*.tmp'))
        return f"checkpoint write, {'inside' if inside else 'just after'}"

    def _copy(self, process: subprocess.Popen, rng: random.Random, seconds: float) -> str:
        before = self._stamps().get(LAST)
        self._until(process, lambda: self._stamps().get(LAST) != before)
        self._within(process, rng, 0.02)
        return 'copies of the last checkpoint'

    def _evaluation(self, process: subprocess.Popen, rng: random.Random, seconds: float) -> str:
        opened = _Opened(sorted((self.data / 'test').iterdir()))
        self._until(process, opened)
        self._within(process, rng, 0.05)
        opened.close()
        return 'evaluation'


def _family(pid: int) -> List[int]:
    # torchrun gives each of its processes a session of its own: killing the group would leave them training
    parents = {}
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(')')[2].split()[1])
        except (OSError, IndexError):
            continue
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family


class _Opened:
    """True once a file in one of the folders has been opened (inotify)."""

    OPEN, IS_DIRECTORY, NONBLOCK = 0x20, 0x40000000, os.O_NONBLOCK

    def __init__(self, folders: Sequence[Path]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(self.NONBLOCK)
        for folder in folders:
            if libc.inotify_add_watch(self.fd, str(folder).encode(), self.OPEN) < 0:
                raise OSError(ctypes.get_errno(), f'cannot watch {folder}')

    def __call__(self) -> bool:
        try:
            events = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return False
        while events:
            mask, length = (int.from_bytes(events[a:a + 4], sys.byteorder) for a in (4, 12))
            if not mask & self.IS_DIRECTORY:
                return True
            events = events[16 + length:]
        return False

    def close(self) -> None:
        os.close(self.fd)


def kill_and_resume(
        directory: Path,
        kills: int,
        seed: int,
        workers: int = 0,
        processes: int = 1,
        epochs: int = 3,
        images: int = 24,
) -> Dict[str, Any]:
    """Train once without and once with ``kills`` kills.

    Returns:
        ``differences`` (empty if the two are the same bits), ``hits`` (how often each place was hit) and ``completed``
        (how often the run ended before it could be killed, and was begun again in the next life).
    """
    rng = random.Random(seed)
    data = write_folder(directory / 'data', train=images, test=20, size=16)
    # without loader processes the images are in memory, as they are by default
    flags = [*RECIPE, '--epochs', str(epochs), '-j', str(workers), *(['--no-device-data'] if workers else [])]
    whole = Victim(data, directory / 'whole', flags, processes)
    whole.finish()
    seconds = json.loads((whole.run / 'environment.json').read_text())['seconds'] / epochs
    victim = Victim(data, directory / 'killed', flags, processes)
    hits: collections.Counter = collections.Counter()
    completed = 0
    wrong: List[str] = []
    while sum(hits.values()) < kills:
        where = victim.die(rng.choice(PLACES), rng, seconds)
        if where is None:
            completed += 1
            wrong += compare_runs(whole.run, victim.run)
            shutil.rmtree(victim.run)
        else:
            hits[where] += 1
            print(f'kill {sum(hits.values())}: {where}', flush=True)
    victim.finish()
    wrong += compare_runs(whole.run, victim.run)
    return dict(differences=wrong, hits=dict(hits), completed=completed,
                best=load_checkpoint(victim.run / BEST)['epoch'])


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of ``python -m tests.training.kill_and_resume``."""
    parser = argparse.ArgumentParser(description='Kill and resume a training run, and compare it with the whole one.')
    parser.add_argument('--kills', type=int, default=30)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--workers', type=int, default=0, help='loader processes')
    parser.add_argument('--processes', type=int, default=1, help='training processes')
    parser.add_argument('--epochs', type=int, default=6)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        result = kill_and_resume(Path(directory), args.kills, args.seed, args.workers, args.processes, args.epochs)
    for key, value in result.items():
        print(f'{key}: {value}')
    return 1 if result['differences'] else 0


if __name__ == '__main__':
    sys.exit(main())
