"""A run directory after a resume: it holds what the resumed state says, and nothing newer or of another run."""
import os
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from iebn_zoo.training.run.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    RECOVERY,
    DamagedError,
    load_checkpoint,
    save_checkpoint,
)
from iebn_zoo.training.run.directory import ABANDONED
from iebn_zoo.training.run.resume import Found, put_aside
from iebn_zoo.training.run.rotation import CheckpointStore, copy_file, history_epoch, history_name
from iebn_zoo.util.errors import IEBNZooError

_NEWER = 'is newer than the checkpoint that the run goes on from'


def settle(store: CheckpointStore, found: Found) -> None:
    """Put the files where they would be if the run had not stopped, or had not gone past the checkpoint.

    A killed process may have left copies undone. A file that the user named may be older than the run, of another run,
    or from the middle of an epoch; in the last case it becomes ``recovery``. Checkpoints that do not belong to the run
    up to this point are moved into a new folder ``abandoned/N`` of the run, with a message each. No checkpoint is
    deleted. After a kill in between, the same command does the rest.

    Args:
        store: The checkpoints of the run, with the ranking of the resumed checkpoint.
        found: The resumed checkpoint.

    Raises:
        IEBNZooError: A file cannot be read, written or moved.
    """
    put_aside(found.damaged)
    directory = _Directory(store, found)
    middle = found.checkpoint['position']['step'] > 0
    if found.asked:
        for name in (RECOVERY, PREVIOUS):
            directory.keep_or_abandon(name)
    if middle:
        directory.continue_from_recovery()
    else:
        directory.continue_from_last()
    directory.mend_history()
    directory.mend_best(middle)
    if not middle:
        store.publish(found.checkpoint['epoch'])


class _Directory:
    def __init__(self, store: CheckpointStore, found: Found) -> None:
        self.store, self.found = store, found
        self.run, self.source = store.directory, found.path.resolve()
        self.position = _place(found.checkpoint)
        self.abandoned: Optional[Path] = None

    def continue_from_recovery(self) -> None:
        if self._is_source(RECOVERY):
            return
        # last is the newest until this is written: a kill leaves one or the other to go on from
        save_checkpoint(self.run / RECOVERY, self.found.checkpoint)
        self.keep_or_abandon(LAST)
        other, _ = self._read(self.source.parent / LAST)
        if not (self.run / LAST).exists() and other is not None and _place(other) == (self.position[0], 0):
            copy_file(self.source.parent / LAST, self.run / LAST)

    def continue_from_last(self) -> None:
        if not self._is_source(LAST):
            last = self.run / LAST
            if self.found.asked:
                content, reason = self._read(last)
                if content is None and last.exists():
                    self._abandon(last, reason, stays=True)  # a kill must not leave a run without its last
            save_checkpoint(last, self.found.checkpoint)
        self.store.drop_recovery()

    def mend_history(self) -> None:
        for path in sorted(self.run.glob(history_name('*'))):
            epoch = history_epoch(path)
            if epoch is not None and epoch >= self.position[0]:
                self._abandon(path, _NEWER)
            elif epoch is not None and self.found.asked:
                self.keep_or_abandon(path.name)
        if self.found.asked and self.source.parent != self.run.resolve():
            for _, epoch in self.store.kept:
                name = history_name(epoch)
                if not (self.run / name).exists() and self._is_of(self.source.parent / name, epoch):
                    copy_file(self.source.parent / name, self.run / name)

    def mend_best(self, middle: bool) -> None:
        best, wanted = self.run / BEST, self.store.best[1] if self.store.best is not None else None
        there, reason = self._read(best)
        if there is not None and there['epoch'] == wanted:
            return
        if there is None and best.exists():
            self._abandon(best, reason)
        if not middle and wanted == self.found.checkpoint['epoch']:
            return  # it is last, which is published
        if wanted is not None:
            name = history_name(wanted)
            for path in (self.run / name, self.source.parent / name, self.source.parent / BEST, self.run / LAST):
                if self._is_of(path, wanted):
                    copy_file(path, best)
                    return
            print(f'the best epoch so far, {wanted}, is in no file any more: there is no {BEST} until one is better',
                  flush=True)
        if best.exists():
            self._abandon(best, 'is not of the best epoch so far')

    def keep_or_abandon(self, name: str) -> None:
        path = self.run / name
        if path.exists() and not self._is_source(name):
            content, reason = self._read(path)
            if content is None:
                self._abandon(path, reason)

    def _is_source(self, name: str) -> bool:
        return self.source == (self.run / name).resolve()

    def _is_of(self, path: Path, epoch: int) -> bool:
        content, _ = self._read(path)
        return content is not None and _place(content) == (epoch + 1, 0)

    def _read(self, path: Path) -> Tuple[Optional[Dict[str, Any]], str]:
        """The content of a checkpoint that the run has passed on its way to the resumed state; else None and why."""
        if not path.is_file():
            return None, 'is no file'
        try:
            content = load_checkpoint(path)
        except DamagedError:
            return None, 'is damaged'
        if 'position' not in content:
            return None, 'was written by an earlier version'
        if _place(content) > self.position:
            return None, _NEWER
        rows = content['rows']
        if repr(rows) != repr(self.found.checkpoint['rows'][:len(rows)]):  # repr: NaN is NaN
            return None, 'has other epochs than the checkpoint that the run goes on from'
        return content, ''

    def _abandon(self, path: Path, reason: str, stays: bool = False) -> None:
        """Move ``path`` into the folder of this resume, or, if it ``stays``, give it a second name there."""
        try:
            if self.abandoned is None:
                parent = self.run / ABANDONED
                used = [int(p.name) for p in parent.glob('*') if p.name.isdecimal()]
                self.abandoned = parent / str(max(used, default=0) + 1)
                self.abandoned.mkdir(parents=True)
            target = self.abandoned / path.name
            if stays:
                copy_file(path, target)
            else:
                os.rename(path, target)
        except OSError as e:
            raise IEBNZooError(f'cannot move {path} into {self.run / ABANDONED}: {e.strerror or e}.\n'
                               f'Expected a writable directory.') from e
        print(f'{path.name} {reason}. It was moved to {target.relative_to(self.run)}.', flush=True)


def _place(checkpoint: Dict[str, Any]) -> Tuple[int, int]:
    return checkpoint['position']['epoch'], checkpoint['position']['step']
