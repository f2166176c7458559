"""The directory a run owns."""
from pathlib import Path
from typing import List

from iebn_zoo.errors import IEBNZooError, UsageError
from iebn_zoo.training.log import ARGS, CURVES, ENVIRONMENT, SUMMARY


def run_files(directory: Path) -> List[Path]:
    """Files of a run that lie in ``directory``."""
    names = [directory / n for n in (ARGS, CURVES, ENVIRONMENT, SUMMARY)]
    return [p for p in names if p.exists()] + sorted(directory.glob('*.pth.tar'))


def prepare(directory: Path, resume: bool, overwrite: bool) -> None:
    """Make ``directory`` ready for a run.

    Raises:
        UsageError: It holds a run, and neither ``resume`` nor ``overwrite`` is asked for; or both are.
        IEBNZooError: It cannot be made.
    """
    if resume and overwrite:
        raise UsageError('--resume and --overwrite contradict each other.\nGive one of them.')
    if directory.exists() and not directory.is_dir():
        raise UsageError(f'{directory} is a file.\nGive --output a directory.')
    held = run_files(directory) if directory.is_dir() else []
    if held and not resume and not overwrite:
        raise UsageError(
            f'{directory} holds another run ({held[0].name}).\n'
            f'Continue it with --resume, replace it with --overwrite, or give another --output.')
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in held if overwrite else []:
            path.unlink()
    except OSError as e:
        raise IEBNZooError(f'cannot prepare {directory}: {e.strerror or e}.\nGive --output a writable place.') from e
