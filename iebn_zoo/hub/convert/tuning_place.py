"""The directory beside the output where a folded network is fine-tuned, so that an interrupted fine-tuning goes on."""
import json
import os
import shutil
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping, Optional

from safetensors import SafetensorError

from iebn_zoo.training.run.lock import LOCK, RunLock
from iebn_zoo.training.run.records import SUMMARY, read_summary
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.files import write_text

_FOLDED, _RUN, _SETTINGS, _FOLD = 'folded', 'run', 'settings.json', 'fold.json'
# flags of convert that have another name than the setting of train
_FLAGS = {'lr': '--tune-lr', 'epochs': '--tune-epochs'}
# what is too long to be shown
_WORDS = {'source': 'it was of other weights', 'arch': 'it was of another architecture',
          'model_args': 'its network had other arguments', 'data_config': 'its images were prepared otherwise',
          'label_names': 'its classes had other names'}


class TuningPlace:
    """``OUTPUT.tuning``: the folded network, what its fold found, the run, and the settings that all belong to.

    One process at a time has it. It counts as begun when its settings are written, which comes after the folded
    network and what its fold found, and they are what is removed first.

    Args:
        output: Directory that the conversion will write.
    """

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(f'{output.name}.tuning').resolve()
        self.folded, self.run = self.path / _FOLDED, self.path / _RUN
        self._lock = RunLock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the directory and lock it; at the end remove it if nothing is in it.

        Raises:
            UsageError: Another process has it, or something else is there.
            IEBNZooError: It cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._check_ours()
            self._lock.acquire(self.path)
        except OSError as e:
            raise IEBNZooError(f'cannot make {self.path}: {e.strerror or e}.\nGive --output a writable place.') from e
        try:
            yield
        finally:
            self._leave()

    def goes_on(self, settings: Mapping[str, Any], defaults: Mapping[str, Any], overwrite: bool) -> bool:
        """Tell whether an interrupted fine-tuning goes on. What cannot go on is removed if it has no finished epoch, or
        with ``overwrite``.

        Args:
            settings: What must be the same, as JSON values.
            defaults: Settings that an earlier version did not have.
            overwrite: Give up a fine-tuning that had other settings.

        Raises:
            UsageError: There is one with other settings, or a run without any.
        """
        there = self._read(_SETTINGS)
        if there is None and self.run.exists():  # it may be somebody's own, so it is not removed
            raise UsageError(f'{self.run} is there, and no {_SETTINGS} beside it says what it belongs to.\n'
                             f'Move it away, or give another --output.')
        odd = None if there is None else _difference({**defaults, **there}, settings)
        if there is not None and odd is None and self.folded.is_dir():
            return True
        if odd is not None and self._epochs() and not overwrite:
            raise UsageError(f'{self.path} holds an interrupted fine-tuning with other settings: {odd}.\n'
                             f'Give the flags that it had, or --overwrite to begin anew.')
        self._clear()
        return False

    def fold(self) -> Optional[Dict[str, Any]]:
        """Return what ``begin`` was told of the fold, or None where that cannot be read."""
        return self._read(_FOLD)

    def keep_fold(self, fold: Mapping[str, Any]) -> None:
        """Write what a fold found, as JSON values.

        Raises:
            IEBNZooError: It cannot be written.
        """
        write_text(self.path / _FOLD, json.dumps(fold, indent=2) + '\n')

    def begin(self, settings: Mapping[str, Any], fold: Mapping[str, Any], write: Callable[[Path], object]) -> None:
        """Write the folded network and what its fold found, and then the settings.

        Args:
            settings: As JSON values.
            fold: What the fold found, as JSON values.
            write: Writes the network into a directory.

        Raises:
            IEBNZooError: They cannot be written.
        """
        try:
            write(self.folded)
        except (OSError, SafetensorError) as e:
            raise IEBNZooError(f'cannot write {self.folded}: {getattr(e, "strerror", None) or e}.\n'
                               f'Give --output a place with room.') from e
        self.keep_fold(fold)
        write_text(self.path / _SETTINGS, json.dumps(settings, indent=2) + '\n')

    def remove(self) -> None:
        """Remove what the directory holds; ``held`` removes the directory itself."""
        self._clear()

    def _read(self, name: str) -> Optional[Dict[str, Any]]:
        try:
            return dict(json.loads((self.path / name).read_text(encoding='utf-8')))
        except (OSError, ValueError, TypeError):
            return None

    def _epochs(self) -> int:
        return len(read_summary(self.run)) if (self.run / SUMMARY).is_file() else 0

    def _clear(self) -> None:
        for name in (_SETTINGS, _FOLD):
            (self.path / name).unlink(missing_ok=True)
        for place in (self.run, self.folded):
            shutil.rmtree(place, ignore_errors=True)
            if place.exists():
                print(f'warning: {place} cannot be removed.', file=sys.stderr, flush=True)

    def _check_ours(self) -> None:
        # such as somebody's folder of this name
        ours = (_FOLDED, _RUN, _SETTINGS, _FOLD, LOCK)
        foreign = next((name for name in sorted(os.listdir(self.path)) if name not in ours
                        and not name.startswith((f'.{_SETTINGS}.', f'.{_FOLD}.'))), None)
        if foreign is not None:
            raise UsageError(f'{self.path} holds {foreign}, which no fine-tuning made.\n'
                             f'It is the place for the checkpoints: move it away, or give another --output.')

    def _leave(self) -> None:
        self._lock.release()
        with suppress(OSError):  # an error here must not hide another one
            if set(os.listdir(self.path)) <= {LOCK}:
                (self.path / LOCK).unlink(missing_ok=True)
                self.path.rmdir()


def _difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> Optional[str]:
    name = next((name for name in now if there.get(name) != now[name]), None)
    if name is None:
        return None
    flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
    return _WORDS.get(name) or f'{flag} was {there.get(name)!r} and is {now[name]!r}'
