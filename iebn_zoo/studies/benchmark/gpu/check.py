"""``make gpu``: all checks and measurements that need a GPU, in at most eight minutes.

    operator (float64) -> tests -> table -> an epoch of training

Each part has a time limit. If a part fails, the later ones still run; only a wrong operator ends everything.
"""
import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

import torch

from iebn_zoo.studies.benchmark.check.oracle import SHAPES
from iebn_zoo.studies.benchmark.gpu.images import write_random_images
from iebn_zoo.studies.benchmark.gpu.parts import DRY_RUN_FACTOR, Job, Part
from iebn_zoo.studies.benchmark.gpu.pool import run_part
from iebn_zoo.studies.benchmark.gpu.report import facts
from iebn_zoo.studies.benchmark.process import GRACE_S, Outcome, run
from iebn_zoo.util.command_line.main import run as run_command
from iebn_zoo.util.command_line.parser import Parser, RawHelpFormatter
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.files import write_text
from iebn_zoo.util.resources import ROOT

LIMITS = {'operator': 70.0, 'tests': 90.0, 'table': 180.0, 'epoch': 120.0}
TOTAL_S = 470.0
MAX_PROCESSES = 16
# all that are skipped where there is no GPU
TESTS = ('tests/gpu', 'tests/ops/test_triton.py', 'tests/ops/test_triton_dispatch.py', 'tests/layers/test_unfreeze.py',
         'tests/studies/benchmark/test_memory.py', 'tests/training/engine/test_step_graph.py::test_on_a_gpu',
         'tests/contracts/test_distributed.py::test_sync_batch_norm')
DRY_RUN = 'IEBN_ZOO_GPU_DRY_RUN'  # tests/gpu runs its bodies on the CPU where this is 1
LAYOUTS = ('', '+channels_last')
DTYPES = ('bfloat16', 'float32', 'float16')


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = Parser(
        prog='python -m iebn_zoo.studies.benchmark.gpu.check', formatter_class=RawHelpFormatter,
        description='Check and measure on a GPU in at most eight minutes and write one directory:\n'
        + '\n'.join(f'  {name:<9} {text} ({LIMITS[name]:.0f} s)' for name, text in (
            ('operator', 'against its formula in float64; if it is wrong, nothing else runs'),
            ('tests', 'the GPU tests of the checkout, on all cores, at most 16; needs pytest'),
            ('table', 'iebn-zoo benchmark --gpu'),
            ('epoch', 'one epoch of iebn_resnet164_cifar'))))
    parser.add_argument('--output', type=Path, default=Path('gpu_results'), metavar='DIR',
                        help='a new or empty directory')
    parser.add_argument('--data-dir', type=Path, metavar='DIR', help='CIFAR-100, as train --data-dir takes it: with '
                        'train.tar and test.tar (default: random images)')
    parser.add_argument('--parts', nargs='+', choices=LIMITS, default=list(LIMITS), metavar='PART',
                        help='parts to run (default: all)')
    parser.add_argument('--dry-run', action='store_true',
                        help='run the same code on the CPU with tiny sizes: shows only that it runs')
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of ``make gpu``.

    Returns:
        0, or 1 where a part failed.

    Raises:
        UsageError: There is no GPU, the data is missing, or the directory is not empty.
    """
    args = build_parser().parse_args(argv)
    if not args.dry_run and not torch.cuda.is_available():
        raise UsageError('this needs a CUDA GPU, and torch sees none.\nTry the code with --dry-run.')
    if args.data_dir is not None and not args.data_dir.is_dir():
        raise UsageError(f'no such directory: {args.data_dir}, for --data-dir.\nLeave it out for random images.')
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise UsageError(f'{args.output} is there and not empty.\nGive another --output; make gpu OUTPUT=DIR.')
    args.output.mkdir(parents=True, exist_ok=True)
    found = facts(torch.device('cpu' if args.dry_run else 'cuda'))
    write_text(args.output / 'environment.json', json.dumps(dict(found, dry_run=args.dry_run), indent=2) + '\n')
    print(f"{found['gpu'] or found['cpu']}, torch {found['torch']}, CUDA {found['cuda']}, Triton {found['triton']}",
          flush=True)
    return _run_all(args)


def _run_all(args: argparse.Namespace) -> int:
    parts: Dict[str, Callable[[argparse.Namespace, float], Outcome]] = {
        'operator': _operator, 'tests': _tests, 'table': _table, 'epoch': _epoch}
    start = time.monotonic()
    lines: List[str] = []
    factor = DRY_RUN_FACTOR if args.dry_run else 1
    wrong, failed = False, False
    for name in [name for name in LIMITS if name in args.parts]:
        # the rest of the whole time bounds a part too; a process that must be killed takes GRACE_S longer
        seconds = min(factor * LIMITS[name], factor * TOTAL_S - (time.monotonic() - start)) - GRACE_S
        if wrong or seconds <= 0:
            why = 'the operator is not known to be right' if wrong else 'no time was left'
            outcome = Outcome(0.0, f'not run: {why}')
        else:
            print(f'\n== {name}, at most {seconds:.0f} s', flush=True)
            outcome = parts[name](args, seconds)
        wrong |= name == 'operator' and outcome.error is not None
        failed |= outcome.error is not None
        lines.append(f'{name:<9} {outcome.seconds:4.0f} s  {outcome.error or "ok"}')
        write_text(args.output / 'summary.txt', '\n'.join(lines) + '\n')
    print('\n' + '\n'.join(lines) + f'\n\nresults {args.output}', flush=True)
    return int(failed)


def _operator(args: argparse.Namespace, seconds: float) -> Outcome:
    start = time.monotonic()
    part = Part('operator', tuple(operator_jobs(args.dry_run, _cores())), seconds)
    compared: List[int] = []
    outcomes = run_part(part, seconds, lambda job, record: compared.append(record['compared']))
    errors = list(dict.fromkeys(o for o in outcomes if o))
    lines = errors or [f'our operator agrees with the formula in float64: {sum(compared)} quantities compared']
    write_text(args.output / 'operator.txt', '\n'.join(lines) + '\n')
    print('\n'.join(lines), flush=True)
    return Outcome(time.monotonic() - start, errors[0].splitlines()[0] if errors else None)


def operator_jobs(dry_run: bool, cores: int) -> List[Job]:
    """Split the check into processes that run at once: on a GPU most of its time is compilation of kernels."""
    modes = ('train', 'infer')
    if dry_run:
        return [Job('check', 'cpu', settings=('float32', 'bfloat16+channels_last'), shapes=SHAPES[:1], modes=modes)]
    together = [tuple(d + layout for d in DTYPES for layout in LAYOUTS)]
    settings = [tuple(d + layout for layout in LAYOUTS) for d in DTYPES] if cores >= 12 else together
    return [Job('check', 'cuda:0', settings=texts, shapes=(shape,), modes=modes)
            for texts in settings for shape in SHAPES]


def _tests(args: argparse.Namespace, seconds: float) -> Outcome:
    missing = [name for name in TESTS if not (ROOT / name.partition('::')[0]).exists()]
    if missing:
        return Outcome(0.0, f'not run: no {missing[0]} beside the package; use a checkout')
    if importlib.util.find_spec('pytest') is None:
        return Outcome(0.0, 'not run: pytest is not installed')
    cores = ['-n', str(_cores()), '--dist', 'worksteal'] if importlib.util.find_spec('xdist') else []
    chosen = [str(ROOT / name) for name in (TESTS[:1] if args.dry_run else TESTS)]
    # -v: one line per test, so that a run that was cut off shows what it has done
    command = [sys.executable, '-m', 'pytest', '-v', '-rfEs', '--tb=short', '-p', 'no:cacheprovider', '-c',
               str(ROOT / 'pyproject.toml'), '--rootdir', str(ROOT), *([] if args.dry_run else cores), *chosen]
    environment = dict(_environment(), **({DRY_RUN: '1'} if args.dry_run else {}))
    return run(command, seconds, args.output / 'tests.txt', environment)


def _table(args: argparse.Namespace, seconds: float) -> Outcome:
    # the table gets less time than the part, so that it ends by itself
    command = [sys.executable, '-m', 'iebn_zoo', 'benchmark', '--gpu', '--output', str(args.output / 'table.csv'),
               '--time-limit', f'{seconds - 10:.0f}']
    if args.dry_run:
        command += ['--dry-run', '--variants', 'iebn', '--executions', 'eager', 'graph']
    return run(command, seconds, args.output / 'table.txt', _environment())


def _epoch(args: argparse.Namespace, seconds: float) -> Outcome:
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        sizes = (40, 20, 4) if args.dry_run else (50_000, 1_000)
        data = args.data_dir or write_random_images(Path(directory), *sizes)
        command = [sys.executable, '-m', 'iebn_zoo', 'train', '--config', 'cifar_resnet164', '--epochs', '1',
                   '--data-dir', str(data), '--output', str(args.output / 'epoch'), '--amp', '--channels-last']
        if args.dry_run:
            command += ['--model', 'iebn_resnet20_cifar', '--device', 'cpu', '-b', '8', '-j', '0']
        else:
            command += ['--device', 'cuda', '-j', str(min(8, _cores())), '--device-data', '--cuda-graph']
        left = seconds - (time.monotonic() - start)
        outcome = run(command, left, args.output / 'epoch.txt', _environment())
    return Outcome(time.monotonic() - start, outcome.error)


def _cores() -> int:
    # the context of each process takes half a gigabyte of the GPU
    return min(MAX_PROCESSES, len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1)


def _environment() -> Dict[str, str]:
    """Return our environment with this package in front, so that nothing needs to be installed."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
    return dict(os.environ, PYTHONPATH=path, PYTHONUNBUFFERED='1', OMP_NUM_THREADS='1')


if __name__ == '__main__':
    sys.exit(run_command(main))
