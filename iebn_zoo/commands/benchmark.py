"""``benchmark``: check the operator, measure every case, write a CSV and a chart."""
import sys
from pathlib import Path
from typing import List, Optional, Sequence

import torch
from tqdm import tqdm

from iebn_zoo.studies.benchmark import machine
from iebn_zoo.studies.benchmark.arguments import build_parser
from iebn_zoo.studies.benchmark.check.oracle import check_operator
from iebn_zoo.studies.benchmark.gpu.table import run_table
from iebn_zoo.studies.benchmark.measure import measure
from iebn_zoo.studies.benchmark.plan import Case, make_cases, modes_of, rounds_of, settings_of
from iebn_zoo.studies.benchmark.results.csv_path import usable_csv
from iebn_zoo.studies.benchmark.results.report import HEADER, Row, make_rows, table_line, write_rows
from iebn_zoo.studies.benchmark.results.summary import summarize
from iebn_zoo.training.config.limits import check_limits
from iebn_zoo.util.device import ALLOCATOR_VARIABLES, keep_freed_memory, resolve_device
from iebn_zoo.util.errors import IEBNZooError, UsageError


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point of scripts/benchmark.py and of ``iebn-zoo benchmark``."""
    args = build_parser().parse_args(argv)
    check_limits(args)
    if args.gpu:
        return run_table(args)
    if args.dry_run:
        raise UsageError('--dry-run belongs to --gpu.\nGive both, or neither.')
    output = usable_csv(args.output, args.overwrite)
    rounds, settings = rounds_of(args), settings_of(args)
    device = resolve_device(args.device, keep_memory=False)
    if args.keep_memory and not (device.type == 'cpu' and keep_freed_memory()):
        raise UsageError(f'--keep-memory has no effect here: device {device}.\nExpected the CPU, glibc, and none of '
                         f'{", ".join(ALLOCATOR_VARIABLES)} in the environment.')
    cases = make_cases(args, device)
    torch.backends.cudnn.benchmark = True  # as timm's train.py has it
    if args.threads:
        torch.set_num_threads(args.threads)
    for backend in {setting.backend for setting in settings if setting.backend}:
        machine.check_compiler(backend, device)
    compared = check_operator(settings, modes_of(args), device)
    _say(f'our operator agrees with the formula in float64: {compared} quantities compared')
    rows = run(cases, rounds, device, output, args.keep_memory)
    for line in ('', *summarize(rows), '', f'results {output}'):
        _say(line)
    from iebn_zoo.plots.benchmark import draw  # matplotlib takes its time to import
    if draw(output.with_suffix('.png'), rows):
        _say(f"chart   {output.with_suffix('.png')}")
    if all(row['error'] for row in rows):
        raise IEBNZooError(f'nothing could be measured; the first reason: {rows[0]["error"]}')
    return 0


def run(
        cases: Sequence[Case], rounds: int, device: torch.device, output: Path, kept_memory: bool = False,
) -> List[Row]:
    """Measure every case; print and write the rows of each case when it is done.

    Args:
        cases: What to measure.
        rounds: Samples per variant.
        device: Where to measure.
        output: CSV to write.
        kept_memory: What the rows say of ``keep_freed_memory``.

    Returns:
        All rows.

    Raises:
        IEBNZooError: The CSV cannot be written.
    """
    facts = dict(machine.facts(device), kept_memory=1 if kept_memory else None)
    rows: List[Row] = []
    bandwidth = machine.copy_bandwidth(device) if device.type == 'cuda' else None
    _say(f"{facts['gpu'] or facts['cpu']}, {facts['threads']} CPU threads, torch {facts['torch']}, "
         f"timm {facts['timm']}" + (f', copy {bandwidth / 1e9:.0f} GB/s' if bandwidth else ''))
    _say(f'{rounds} rounds; +- is the interquartile range; ratio is to bn, for iebn_relu to bn_relu, in the same '
         f'round\n{HEADER}')
    with tqdm(total=rounds * len(cases), desc='benchmark', unit='round', leave=False, dynamic_ncols=True,
              disable=not sys.stderr.isatty()) as bar:
        for case in cases:
            bar.set_postfix_str(f'{case.name} {case.setting.name} {case.mode}')
            results = measure(case.builders(device), rounds, device, after_round=bar.update)
            rows += make_rows(case, results, rounds, facts, bandwidth if _is_large(case, device) else None)
            write_rows(output, rows)
            for row in rows[-len(results):]:
                _say(table_line(row))
    return rows


def _is_large(case: Case, device: torch.device) -> bool:
    batch, channels, height, width = case.shape
    size = batch * channels * height * width * case.setting.torch_dtype.itemsize
    return case.kind == 'layer' and device.type == 'cuda' and size > machine.cache_bytes(device)


def _say(line: str) -> None:
    # around the bar on stderr, and at once: the run may be long and stdout a pipe
    with tqdm.external_write_mode():
        print(line, flush=True)
