"""The directory of a run: which files are the run's, and how it is made ready."""
import shutil
from pathlib import Path
from typing import Any, List, Mapping, Optional

from iebn_zoo.training.run.checkpoint import BEST, LAST, PREVIOUS, RECOVERY
from iebn_zoo.training.run.lock import RunLock
from iebn_zoo.training.run.records import ARGS, CURVES, ENVIRONMENT, SUMMARY, TIMING
from iebn_zoo.util.errors import IEBNZooError, UsageError

ABANDONED = 'abandoned'  # holds a folder for each time that the run went back
# the names that a run gives, and no others: somebody's own checkpoint may lie beside them
_PATTERNS = (LAST, BEST, PREVIOUS, RECOVERY, 'checkpoint-*.pth.tar', 'rank[0-9]*.log', 'batch_noise.csv', 'preview.png')
_OF_LOGGERS = ('tensorboard', 'wandb')  # wandb sync would send the offline logs of the replaced run too
# earlier versions wrote the latter
_SET_ASIDE = tuple(f'{name}.{end}' for name in _PATTERNS[:5] for end in ('damaged', 'abandoned*'))


def run_files(directory: Path) -> List[Path]:
    """List the files of a run that lie in ``directory``."""
    names = [directory / n for n in (ARGS, CURVES, ENVIRONMENT, SUMMARY, TIMING)]
    found = [path for pattern in _PATTERNS for path in directory.glob(pattern)]
    return [p for p in names if p.exists()] + sorted(found)


def _left_by_a_kill(directory: Path) -> List[Path]:
    # temporary files of atomic_write, which a killed process could not remove
    names = (*_PATTERNS, 'test_*.json', ARGS, CURVES, ENVIRONMENT, SUMMARY, TIMING)
    return [p for n in names for place in ('', f'{ABANDONED}/*/') for p in directory.glob(f'{place}.{n}.*.tmp')]


def prepare(
        directory: Path, resume: bool, overwrite: bool, lock: RunLock, sources: Optional[Mapping[str, Any]] = None,
) -> None:
    """Make ``directory`` ready for a run, lock it, and remove what a killed process left half written.

    Args:
        directory: The run directory.
        resume: The run in it goes on.
        overwrite: The run in it is replaced.
        lock: Locks the directory.
        sources: Flags that name a file or directory which the run reads, with their values; None is no place.

    Raises:
        UsageError: The directory holds a run, and neither ``resume`` nor ``overwrite`` is given; or both are given; or
            ``overwrite`` would remove one of ``sources``; or another process is writing it.
        IEBNZooError: The directory cannot be made.
    """
    if resume and overwrite:
        raise UsageError('--resume and --overwrite contradict each other.\nGive one of them.')
    if directory.exists() and not directory.is_dir():
        raise UsageError(f'{directory} is a file.\nGive --output a directory.')
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(directory)
        held = run_files(directory)
        if held and not resume and not overwrite:
            raise UsageError(
                f'{directory} holds another run ({held[0].name}).\n'
                f'Continue it with --resume, replace it with --overwrite, or give another --output.')
        replaced = _replaced(directory, held) if overwrite and held else []  # else none of these are a run's
        _check_sources(replaced, sources or {})
        for path in (*replaced, *_left_by_a_kill(directory)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=path.name in _OF_LOGGERS)
            else:
                path.unlink(missing_ok=True)
    except OSError as e:
        raise IEBNZooError(f'cannot prepare {directory}: {e.strerror or e}.\nGive --output a writable place.') from e


def _replaced(directory: Path, held: List[Path]) -> List[Path]:
    # the checkpoints in ABANDONED are of the old run too, and the new one must not seem to have them
    folders = [directory / name for name in (*_OF_LOGGERS, ABANDONED)]
    set_aside = [path for pattern in _SET_ASIDE for path in directory.glob(pattern)]
    return [*held, *set_aside, *(path for path in folders if path.is_dir())]


def _check_sources(replaced: List[Path], sources: Mapping[str, Any]) -> None:
    for flag, place in sources.items():
        source = Path(str(place)).resolve()
        lost = next((p for p in map(Path.resolve, replaced) if p == source or p in source.parents), None)
        if place and lost is not None:
            raise UsageError(f'{place} of {flag} is a part of the run that --overwrite would remove.\n'
                             f'Copy it to another place and name that, or give another --output.')
