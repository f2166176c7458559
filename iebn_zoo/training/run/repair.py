"""A run directory after a resume: it holds what the resumed state says, and nothing newer or of another run."""
import os
from pathlib import Path
from typing import Any, Dict, Optional

from iebn_zoo.training.run.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    RECOVERY,
    DamagedError,
    load_checkpoint,
    save_checkpoint,
)
from iebn_zoo.training.run.resume import Found, put_aside
from iebn_zoo.training.run.rotation import CheckpointStore, copy_file, history_epoch, history_name
from iebn_zoo.util.errors import IEBNZooError


def settle(store: CheckpointStore, found: Found) -> None:
    """Put the files where they would be had the run never stopped, or never gone past the checkpoint it goes back to.

    A killed process may have left copies undone. A file that was asked for may be older than the run, of another run,
    or from the middle of an epoch, and then it becomes ``recovery``. Checkpoints that do not lie on the way to it are
    renamed to ``*.abandoned``, and named; none is deleted. After a kill in between, the same command does the rest.

    Args:
        store: Of the run, with the ranking of the resumed checkpoint.
        found: The resumed checkpoint.

    Raises:
        IEBNZooError: A file cannot be read, written or renamed.
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

    def continue_from_recovery(self) -> None:
        if self._is_source(RECOVERY):
            return
        # last is the newest until this is written: a kill leaves one or the other to go on from
        save_checkpoint(self.run / RECOVERY, self.found.checkpoint)
        self.keep_or_abandon(LAST)
        other = self._read(self.source.parent / LAST)
        if not (self.run / LAST).exists() and other is not None and _place(other) == (self.position[0], 0):
            copy_file(self.source.parent / LAST, self.run / LAST)

    def continue_from_last(self) -> None:
        if not self._is_source(LAST):
            last = self.run / LAST
            if self.found.asked and last.exists() and self._read(last) is None:
                name = _free_name(last)
                try:
                    os.link(last, name)
                except OSError:  # a file system without hard links
                    copy_file(last, name)
                _say(last, name)
            save_checkpoint(last, self.found.checkpoint)
        self.store.drop_recovery()

    def mend_history(self) -> None:
        for path in sorted(self.run.glob(history_name('*'))):
            epoch = history_epoch(path)
            if epoch is not None and (epoch >= self.position[0] or (self.found.asked and self._read(path) is None)):
                _abandon(path)
        if self.found.asked and self.source.parent != self.run.resolve():
            for _, epoch in self.store.kept:
                name = history_name(epoch)
                if not (self.run / name).exists() and self._is_of(self.source.parent / name, epoch):
                    copy_file(self.source.parent / name, self.run / name)

    def mend_best(self, middle: bool) -> None:
        best, wanted = self.run / BEST, self.store.best[1] if self.store.best is not None else None
        there = self._read(best)
        if there is not None and there['epoch'] == wanted:
            return
        if there is None and best.exists():
            _abandon(best)
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
            _abandon(best)

    def keep_or_abandon(self, name: str) -> None:
        path = self.run / name
        if path.exists() and not self._is_source(name) and self._read(path) is None:
            _abandon(path)

    def _is_source(self, name: str) -> bool:
        return self.source == (self.run / name).resolve()

    def _is_of(self, path: Path, epoch: int) -> bool:
        content = self._read(path)
        return content is not None and _place(content) == (epoch + 1, 0)

    def _read(self, path: Path) -> Optional[Dict[str, Any]]:
        # None unless it lies on the way to the resumed state: not newer, and of the same epochs, digit for digit
        if not path.is_file():
            return None
        try:
            content = load_checkpoint(path)
        except DamagedError:
            return None
        if 'position' not in content or _place(content) > self.position:
            return None
        rows = content['rows']
        return content if repr(rows) == repr(self.found.checkpoint['rows'][:len(rows)]) else None  # repr: NaN is NaN


def _place(checkpoint: Dict[str, Any]) -> Any:
    return checkpoint['position']['epoch'], checkpoint['position']['step']


def _abandon(path: Path) -> None:
    name = _free_name(path)
    try:
        os.rename(path, name)
    except OSError as e:
        raise IEBNZooError(f'cannot rename {path}: {e.strerror or e}.\nExpected a writable directory.') from e
    _say(path, name)


def _free_name(path: Path) -> Path:
    taken = {p.name for p in path.parent.glob(f'{path.name}.abandoned*')}
    names = (f'{path.name}.abandoned{f"-{i}" if i > 1 else ""}' for i in range(1, len(taken) + 2))
    return path.with_name(next(name for name in names if name not in taken))


def _say(path: Path, name: Path) -> None:
    print(f'{path.name} does not lead to where the run goes on: it is kept as {name.name}', flush=True)
