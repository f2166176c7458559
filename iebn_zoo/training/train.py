"""``train``: from flags to a run directory."""
import argparse
import os
from pathlib import Path
from typing import Optional, Sequence

from torch import distributed as dist

from iebn_zoo.errors import UsageError
from iebn_zoo.training import setup, state
from iebn_zoo.training.arguments import train_parser
from iebn_zoo.training.determinism import deterministic
from iebn_zoo.training.limits import check_limits
from iebn_zoo.training.lock import RunLock
from iebn_zoo.training.recipe import parse_with_recipe
from iebn_zoo.training.session import Session
from iebn_zoo.training.stop import Stopped


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    return train_parser()


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of scripts/train.py and of ``iebn-zoo train``."""
    args = parse_with_recipe(build_parser(), argv)
    for name in ('model', 'data_dir', 'output'):
        if not getattr(args, name):
            flag = name.replace('_', '-')
            raise UsageError(f'no --{flag} given.\nExpected at least --model, --data-dir and --output.')
    train(args)
    return 0


def train(args: argparse.Namespace) -> Path:
    """Train by the flags of ``train_parser``; returns the run directory.

    Raises:
        UsageError: The flags, the data or the output directory do not fit.
        IEBNZooError: Something failed on the way; the last checkpoint stands.
    """
    check_limits(args)
    lock = RunLock()
    try:
        with deterministic(args.deterministic):
            session = Session(args, setup.resolve_device(args.device), lock)
            session.run()
    except KeyboardInterrupt as e:
        if os.environ.get('RANK', '0') == '0':
            by = f' by {e}' if isinstance(e, Stopped) else ''
            print(f'\nstopped{by}; continue with the same command and --resume (state in {_newest(args.output)})',
                  flush=True)
        raise
    finally:
        lock.release()
        if dist.is_initialized():
            dist.destroy_process_group()
    return session.output


def _newest(run: str) -> Path:
    recovery = Path(run) / state.RECOVERY  # removed when its epoch is finished
    return recovery if recovery.exists() else Path(run) / state.LAST
