"""``benchmark --gpu``: the check, then the parts in the order of their importance, in less than four minutes."""
import argparse
import importlib.util
import time
from typing import List, Optional

import torch

from iebn_zoo.studies.benchmark.gpu.parts import Job, Part, make_parts
from iebn_zoo.studies.benchmark.gpu.pool import Record, run_part
from iebn_zoo.studies.benchmark.gpu.report import HEADER, Table, facts, labelled, table_line
from iebn_zoo.studies.benchmark.machine import check_compiler
from iebn_zoo.studies.benchmark.results.csv_path import usable_csv
from iebn_zoo.studies.benchmark.results.summary import summarize
from iebn_zoo.util.device import resolve_device
from iebn_zoo.util.errors import IEBNZooError, UsageError

MIN_PART_S = 5.0  # a process needs as much to start
_HAS_NO_MEANING = {'quick': '--quick', 'amp': '--amp', 'channels_last': '--channels-last', 'threads': '--threads',
                   'keep_memory': '--keep-memory'}


def run_table(args: argparse.Namespace) -> int:
    """Measure all parts; rows go to the CSV as they come.

    Args:
        args: Of ``benchmark``, with ``--gpu``.

    Returns:
        0.

    Raises:
        UsageError: There is no GPU, or a flag is wrong.
        IEBNZooError: The operator is wrong, or nothing could be measured.
    """
    output = usable_csv(args.output, args.overwrite)
    device = _device(args)
    parts = make_parts(args, device)
    if args.dry_run and 'compile' in args.executions:
        check_compiler(args.torchcompile or 'aot_eager', device)
    table = Table(output, facts(device), args.dry_run)
    start = time.monotonic()
    f = table.facts
    _say(f"{f['gpu'] or f['cpu']}, torch {f['torch']}, CUDA {f['cuda']}, Triton {f['triton']}, timm {f['timm']}"
         + (' (dry run: plain calls on the CPU in the place of graphs)' if args.dry_run else ''))
    compiled_is_wrong = False
    for part in parts:
        seconds = min(part.limit, args.time_limit - (time.monotonic() - start))
        if seconds < MIN_PART_S or (compiled_is_wrong and 'compiled' in part.name):
            why = 'the check of the compiled operator failed' if seconds >= MIN_PART_S else (
                f'the {args.time_limit:g} s of --time-limit were over')
            outcomes: List[Optional[str]] = [f'not measured: {why}'] * len(part.jobs)
        else:
            outcomes = _run(part, seconds, table)
        compiled_is_wrong |= any(o for job, o in zip(part.jobs, outcomes, strict=True)
                                 if job.task == 'check' and job.backend)
        for job, why in zip(part.jobs, outcomes, strict=True):
            for row in table.add_missing(job, why or 'not reported'):
                _say(table_line(row))
    return _conclude(table, time.monotonic() - start)


def _run(part: Part, seconds: float, table: Table) -> List[Optional[str]]:
    compared = []

    def on_record(job: Job, record: Record) -> None:
        if 'compared' in record:
            compared.append(record['compared'])
        else:
            for row in table.add(job, record):
                _say(table_line(row))

    began = time.monotonic()
    outcomes = run_part(part, seconds, on_record)
    taken = time.monotonic() - began
    if part.name == 'check':
        if any(outcomes):
            why = next(o for o in outcomes if o)
            raise IEBNZooError(why if why.startswith('the operator is wrong') else
                               f'the operator could not be checked, so nothing is timed: {why}')
        _say(f'our operator agrees with the formula in float64: {sum(compared)} quantities compared in {taken:.0f} s'
             f'\n+- is the interquartile range; ratio is to bn, for iebn_relu to bn_relu\n{HEADER}')
    else:
        _say(f'-- {part.name}: {taken:.0f} s of {seconds:.0f} s')
    return outcomes


def _conclude(table: Table, seconds: float) -> int:
    rows = table.rows
    for line in ('', *summarize(labelled(rows)), '',
                 f'{seconds:.0f} s in all', f'results {table.path}'):
        _say(line)
    picture = table.path.with_suffix('.png')
    if importlib.util.find_spec('matplotlib') is None:  # a machine with torch and timm alone
        _say('no chart: matplotlib is not installed')
    else:
        from iebn_zoo.plots.benchmark_gpu import draw
        if draw(picture, labelled(rows)):
            _say(f'chart   {picture}')
    if all(row['error'] for row in rows):
        raise IEBNZooError(f'nothing could be measured; the first reason: {rows[0]["error"]}')
    return 0


def _device(args: argparse.Namespace) -> torch.device:
    given = [flag for name, flag in _HAS_NO_MEANING.items() if getattr(args, name)]
    given += ['--bench'] * (args.bench != 'both')
    if given:
        raise UsageError(f'{given[0]} has no meaning with --gpu.\nLeave it out; see the flags of --gpu in --help.')
    if args.dry_run:
        if args.device not in ('auto', 'cpu'):
            raise UsageError(f'--dry-run is a run on the CPU, and --device is {args.device!r}.\nLeave one of them out.')
        return torch.device('cpu')
    if not torch.cuda.is_available() or args.device == 'cpu':
        raise UsageError('--gpu measures a CUDA GPU, and '
                         + ('--device is cpu' if args.device == 'cpu' else 'torch sees none') + '.\n'
                         'Leave out --gpu to measure the CPU, or try the code with --gpu --dry-run.')
    device = resolve_device('cuda' if args.device == 'auto' else args.device)
    if device.type != 'cuda':
        raise UsageError(f'--gpu measures a CUDA GPU, and --device is {args.device!r}.\nGive cuda or cuda:N.')
    return device


def _say(line: str) -> None:
    print(line, flush=True)
