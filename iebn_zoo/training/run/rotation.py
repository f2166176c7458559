"""The checkpoints of a run directory; the order of the writes leaves a good one there at any time."""
import os
import re
import shutil
from pathlib import Path
from typing import Any, List, Mapping, Optional, Tuple, Union

from iebn_zoo.training.run.checkpoint import BEST, LAST, PREVIOUS, RECOVERY, save_checkpoint
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.files import atomic_write
from iebn_zoo.util.ranking import rank_key


class CheckpointStore:
    """The checkpoints of a run directory.

    ``last`` is of the last finished epoch, and ``previous`` of the epoch before. ``recovery``, newer than ``last``, is
    from the middle of an epoch. ``model_best`` and the ``history`` best ``checkpoint-<epoch>`` were ``last`` once: they
    are hard links where the file system has these, else copies.

    Args:
        directory: The run directory.
        history: How many ``checkpoint-<epoch>.pth.tar`` to keep.
        metric: The metric that ranks the epochs: top1, top5 or loss.
    """

    def __init__(self, directory: Path, history: int, metric: str = 'top1') -> None:
        self.directory = directory
        self.history = history
        self.metric = metric
        self.kept: List[Tuple[float, int]] = []
        self.best: Optional[Tuple[float, int]] = None

    def better(self, a: float, b: float) -> bool:
        return self._key(a) < self._key(b)

    def _key(self, metric: float) -> float:
        return rank_key(metric, self.metric)

    def rank(self, metric: float, epoch: int) -> None:
        """Rank an epoch, before its checkpoint is written: the checkpoint holds the ranking."""
        if self.best is None or self.better(metric, self.best[0]):
            self.best = (metric, epoch)
        ranked = sorted([*self.kept, (metric, epoch)], key=lambda k: self._key(k[0]))
        self.kept = ranked[:self.history]

    def write(self, checkpoint: Mapping[str, Any]) -> None:
        """Write the checkpoint of a finished epoch, keep the previous one, and update best and history.

        Raises:
            IEBNZooError: The disk is full or read-only; the earlier checkpoints are whole.
        """
        save_checkpoint(self.directory / LAST, self._with_ranking(checkpoint), self._keep_previous)
        self.drop_recovery()
        self.publish(checkpoint['epoch'])

    def write_recovery(self, checkpoint: Mapping[str, Any]) -> None:
        """Write a checkpoint from the middle of an epoch.

        Raises:
            IEBNZooError: As ``write``.
        """
        save_checkpoint(self.directory / RECOVERY, self._with_ranking(checkpoint))

    def publish(self, epoch: int) -> None:
        """Copy ``last``, which is of ``epoch``, to best and history by the ranking, and remove what is ranked no more.

        Called again after a resume: the process may have died between two of these copies.
        """
        last = self.directory / LAST
        if self.best is not None and self.best[1] == epoch:
            copy_file(last, self.directory / BEST)
        keep = {e for _, e in self.kept}
        if epoch in keep:
            copy_file(last, self.directory / history_name(epoch))
        for old in self.directory.glob(history_name('*')):
            if history_epoch(old) not in {None, *keep}:
                old.unlink()

    def drop_recovery(self) -> None:
        """Remove the checkpoint from the middle of an epoch, which the run no longer needs."""
        try:
            (self.directory / RECOVERY).unlink(missing_ok=True)
        except OSError as e:
            raise IEBNZooError(f'cannot remove {self.directory / RECOVERY}: {e.strerror or e}.\n'
                               f'Expected a writable directory.') from e

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Continue the ranking that a checkpoint holds."""
        best = checkpoint.get('best')
        self.best = tuple(best) if best else None
        self.kept = [tuple(k) for k in checkpoint.get('kept', [])]

    def _with_ranking(self, checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict(checkpoint, best=self.best, kept=self.kept)

    def _keep_previous(self) -> None:
        if (self.directory / LAST).exists():
            copy_file(self.directory / LAST, self.directory / PREVIOUS)


def history_name(epoch: Union[int, str]) -> str:
    """Return the file name of a kept epoch; ``'*'`` gives a pattern."""
    return f'checkpoint-{epoch}.pth.tar'


def history_epoch(path: Path) -> Optional[int]:
    """Return the epoch of a kept file; None for a file of another name."""
    match = re.fullmatch(r'checkpoint-(\d+)\.pth\.tar', path.name)
    return int(match[1]) if match else None


def copy_file(source: Path, target: Path) -> None:
    """Give ``target`` the content of ``source``, atomically.

    Where the file system has hard links, ``target`` is one: no checkpoint is changed in place, and one may have
    gigabytes.
    """
    if target.exists() and source.samefile(target):
        return
    name = target.with_name(f'.{target.name}.link.tmp')
    name.unlink(missing_ok=True)
    try:
        os.link(source, name)
    except OSError:  # a file system without hard links, or two of them
        with open(source, 'rb') as read, atomic_write(target) as write:
            shutil.copyfileobj(read, write, 1 << 20)
    else:
        os.replace(name, target)
