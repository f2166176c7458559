"""``train``: from the flags through plan and build to the run."""
import argparse
import os
import shutil
from pathlib import Path
from typing import Optional, Sequence

from torch import distributed as dist

from iebn_zoo.training.config.input_size import settle_input_size
from iebn_zoo.training.config.limits import check_limits
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.training.engine.build import build
from iebn_zoo.training.engine.determinism import deterministic
from iebn_zoo.training.engine.plan import make_plan
from iebn_zoo.training.engine.stop import Stopped
from iebn_zoo.training.run.checkpoint import LAST, RECOVERY
from iebn_zoo.training.run.lock import RunLock
from iebn_zoo.training.run.resume import IF_ANY
from iebn_zoo.util.command_line.output import surviving_output
from iebn_zoo.util.device import resolve_device
from iebn_zoo.util.errors import IEBNZooError, first_line
from iebn_zoo.util.processes import leave_allocation


def train(
        args: argparse.Namespace, argv: Sequence[str] = (), class_names: Optional[Sequence[str]] = None) -> Path:
    """Train by the flags of ``train_parser``; return the run directory.

    Args:
        args: The flags.
        argv: The arguments that were given, for environment.json.
        class_names: Names of the classes in the order of the network's logits, for a network whose classifier is kept;
            the classes of a folder or tar are numbered by them. Default: the order of the data.

    Raises:
        UsageError: The flags, the data or the output directory do not fit.
        IEBNZooError: Something failed during the run; the last checkpoint is whole. Or the run has ended well, and a
            part of standard output could not be written.
    """
    with surviving_output():
        return _train(args, argv, class_names)


def _train(args: argparse.Namespace, argv: Sequence[str], class_names: Optional[Sequence[str]]) -> Path:
    check_limits(args)
    settle_input_size(args)
    leave_allocation()
    lock, begun = RunLock(), False
    try:
        with deterministic(args.deterministic):
            plan = make_plan(TrainSettings.from_flags(args), resolve_device(args.device), class_names)
            run = build(plan, lock)
            begun = True
            run.train(argv)
    except KeyboardInterrupt as e:
        if os.environ.get('RANK', '0') == '0':
            by = f' by {e}' if isinstance(e, Stopped) else ''
            print(f'\nstopped{by}; {_how_to_go_on(args, begun)}', flush=True)
        raise
    except RuntimeError as e:
        if 'DataLoader worker' not in str(e) and 'shared memory' not in str(e):
            raise
        raise _loader_died(e, args, begun) from e
    finally:
        lock.release()
        if dist.is_initialized():
            dist.destroy_process_group()
    return plan.output


def _loader_died(error: RuntimeError, args: argparse.Namespace, begun: bool) -> IEBNZooError:
    shared = Path('/dev/shm')  # where loader processes put their batches
    room = f', /dev/shm has {shutil.disk_usage(shared).free / 2 ** 20:.0f} MiB free' if shared.is_dir() else ''
    return IEBNZooError(
        f'a loader process ended: {first_line(error)}{room}.\n'
        f'To go on, {_how_to_go_on(args, begun)}.\n'
        f'Fewer --workers need less memory; -j 0 loads in the main process, with the same bits.')


def _how_to_go_on(args: argparse.Namespace, begun: bool) -> str:
    """Say which command goes on with a run that has ended early.

    Args:
        args: The flags.
        begun: The run has taken its directory; before that, a checkpoint there is that of an earlier run.
    """
    recovery, last = (Path(args.output) / name for name in (RECOVERY, LAST))
    newest = recovery if recovery.exists() else last  # the run removes the former when its epoch is finished
    if not newest.exists() or args.resume is None and not begun:
        anew = ' and --overwrite' if begun and args.resume is None and not args.overwrite else ''
        return f'start again with the same command{anew} (no checkpoint was written)'
    # what must be changed in the command line; a file would be resumed again from its own epoch
    change = {None: ' and --resume', 'auto': '', IF_ANY: ''}.get(args.resume, ' and --resume without its file')
    if args.overwrite:  # the same command would remove the run
        change = ', with --resume in place of --overwrite'
    return f'continue with the same command{change} (state in {newest})'
