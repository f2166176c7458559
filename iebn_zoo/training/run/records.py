"""What a run leaves behind for people: args.yaml, environment.json, summary.csv, timing.csv, curves.png."""
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

import timm
import torch
import yaml

from iebn_zoo.util.csv_files import read_csv, write_csv
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.files import write_text
from iebn_zoo.util.resources import ROOT
from iebn_zoo.version import __version__

ARGS, ENVIRONMENT, SUMMARY, CURVES = 'args.yaml', 'environment.json', 'summary.csv', 'curves.png'
TIMING = 'timing.csv'
Row = Dict[str, Union[int, float]]


def write_args(run: Path, args: Mapping[str, Any]) -> None:
    """Write the value of every flag."""
    write_text(run / ARGS, yaml.safe_dump(dict(args), sort_keys=False, allow_unicode=True))


def write_summary(run: Path, rows: Sequence[Row]) -> None:
    """Write summary.csv, one row per epoch: a repeated or resumed run repeats it to the last digit."""
    write_csv(run / SUMMARY, rows)


def write_timing(run: Path, rows: Sequence[Row]) -> None:
    """Write timing.csv, one row per epoch: ``epoch`` and measured times, which no run repeats."""
    write_csv(run / TIMING, rows)


def remove_rows(run: Path) -> None:
    """Remove the files about finished epochs."""
    for name in (SUMMARY, TIMING, CURVES):
        (run / name).unlink(missing_ok=True)


def read_summary(run: Path, name: str = SUMMARY) -> List[Row]:
    """Read the rows of summary.csv: ``epoch`` as int, the rest as float; empty columns are left out of a row."""
    return read_csv(run / name, {'epoch': int})


def environment(device: torch.device, num_processes: int, argv: Sequence[str] = ()) -> Dict[str, Any]:
    """Describe the machine, the versions and the command of a run, as flat JSON values.

    Args:
        device: The device of this process.
        num_processes: The number of processes of the run.
        argv: The arguments of ``train`` as they were given. (Those of the process may be a notebook's or another
            script's, and hold secrets.)
    """
    module = None if device.type in ('cpu', 'mps') else torch.get_device_module(device.type)
    gpu = module.get_device_name(device) if module is not None else None
    return dict(
        iebn_zoo=__version__, timm=timm.__version__, torch=torch.__version__, python=platform.python_version(),
        platform=platform.platform(), cpu=_cpu_name(), cpu_count=os.cpu_count(), threads=torch.get_num_threads(),
        gpu=gpu, device=str(device), num_processes=num_processes, commit=_commit(),
        command=['iebn-zoo', 'train', *argv] if argv else None,
        started=time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()))


def write_environment(run: Path, values: Mapping[str, Any]) -> None:
    """Write ``environment.json``."""
    write_text(run / ENVIRONMENT, json.dumps(dict(values), indent=2) + '\n')


def _cpu_name() -> str:
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            return next(line.split(':', 1)[1].strip() for line in file if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> Optional[str]:
    # only for a checkout of this package: an installation may lie inside another repository
    if not (ROOT / '.git').exists():
        return None
    try:
        done = subprocess.run(['git', '-C', str(ROOT), 'rev-parse', 'HEAD'], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def plot_curves(run: Path, rows: Sequence[Row]) -> Path:
    """Draw the rows of summary.csv into ``curves.png``; returns its path."""
    from iebn_zoo.plots.curves import draw_curves  # matplotlib is slow to import

    return draw_curves(run / CURVES, rows)


class Curves:
    """The picture ``curves.png`` of a run, drawn at most every ``SECONDS``: to draw it takes as long as a short epoch.

    Args:
        run: The run directory.
    """

    SECONDS = 60

    def __init__(self, run: Path) -> None:
        self.run = run
        self.drawn_at = time.monotonic()
        self.drawn = 0

    def show(self, rows: Sequence[Row], at_once: bool = False) -> None:
        """Draw ``rows`` if ``SECONDS`` have passed, or ``at_once``.

        Raises:
            IEBNZooError: The picture cannot be written.
        """
        if at_once or time.monotonic() - self.drawn_at >= self.SECONDS:
            plot_curves(self.run, rows)
            self.drawn_at, self.drawn = time.monotonic(), len(rows)

    def finish(self, rows: Sequence[Row]) -> None:
        """Draw the last rows when the run ends or fails; an error here must not hide why."""
        if not rows or self.drawn == len(rows):
            return
        try:
            self.show(rows, at_once=True)
        except IEBNZooError as e:
            print(f'warning: {e}', file=sys.stderr, flush=True)
