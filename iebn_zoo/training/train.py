"""``train``: from flags to a run directory."""
import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Optional, Sequence

from torch import distributed as dist

from iebn_zoo.errors import IEBNZooError, UsageError
from iebn_zoo.training import setup, state
from iebn_zoo.training.actions import expanded
from iebn_zoo.training.arguments import train_parser
from iebn_zoo.training.determinism import deterministic
from iebn_zoo.training.distributed import leave_allocation
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
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser()
    parser.add_argument('data', nargs='?', type=expanded, metavar='DATA_DIR', help="the same as --data-dir, as timm's")
    args = parse_with_recipe(parser, argv)
    data = vars(args).pop('data')
    if data is not None:
        if any(word.partition('=')[0] == '--data-dir' for word in argv) and data != args.data_dir:
            raise UsageError(f'DATA_DIR is {data}, and --data-dir is {args.data_dir}.\nGive one of them.')
        args.data_dir = data
    for name in ('model', 'data_dir', 'output'):
        if not getattr(args, name):
            flag = name.replace('_', '-')
            raise UsageError(f'no --{flag} given.\nExpected at least --model, --data-dir and --output.')
    train(args, argv)
    return 0


def train(args: argparse.Namespace, argv: Sequence[str] = ()) -> Path:
    """Train by the flags of ``train_parser``; returns the run directory.

    Args:
        args: The flags.
        argv: The arguments that they were given by, for the log.

    Raises:
        UsageError: The flags, the data or the output directory do not fit.
        IEBNZooError: Something failed on the way; the last checkpoint stands.
    """
    check_limits(args)
    leave_allocation()
    lock = RunLock()
    try:
        with deterministic(args.deterministic):
            session = Session(args, setup.resolve_device(args.device), lock)
            session.run(argv)
    except KeyboardInterrupt as e:
        if os.environ.get('RANK', '0') == '0':
            by = f' by {e}' if isinstance(e, Stopped) else ''
            print(f'\nstopped{by}; continue with the same command and --resume (state in {_newest(args.output)})',
                  flush=True)
        raise
    except RuntimeError as e:
        if 'DataLoader worker' not in str(e) and 'shared memory' not in str(e):
            raise
        raise _loader_died(e, args) from e
    finally:
        lock.release()
        if dist.is_initialized():
            dist.destroy_process_group()
    return session.output


def _loader_died(error: RuntimeError, args: argparse.Namespace) -> IEBNZooError:
    shared = Path('/dev/shm')  # where loader processes put their batches
    room = f', /dev/shm has {shutil.disk_usage(shared).free / 2 ** 20:.0f} MiB free' if shared.is_dir() else ''
    return IEBNZooError(
        f'a loader process ended: {setup.first_line(error)}{room}.\n'
        f'The state is in {_newest(args.output)}: continue with the same command and --resume.\n'
        f'Fewer --workers need less memory; -j 0 loads in the main process, with the same bits.')


def _newest(run: str) -> Path:
    recovery = Path(run) / state.RECOVERY  # removed when its epoch is finished
    return recovery if recovery.exists() else Path(run) / state.LAST
