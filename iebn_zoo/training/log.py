"""What a run leaves behind for people: args.yaml, environment.json, summary.csv, curves.png."""
import csv
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

from iebn_zoo.files import atomic_write, write_text
from iebn_zoo.version import __version__

ARGS, ENVIRONMENT, SUMMARY, CURVES = 'args.yaml', 'environment.json', 'summary.csv', 'curves.png'
Row = Dict[str, Union[int, float]]


def write_args(run: Path, args: Mapping[str, Any]) -> None:
    """Write every flag as it was in force."""
    write_text(run / ARGS, yaml.safe_dump(dict(args), sort_keys=False, allow_unicode=True))


def write_summary(run: Path, rows: Sequence[Row]) -> None:
    """Write one row an epoch; the columns are the first row's."""
    with atomic_write(run / SUMMARY, 'w', newline='') as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_summary(run: Path) -> List[Row]:
    """Rows of summary.csv; ``epoch`` as int, the rest as float."""
    with open(run / SUMMARY, newline='', encoding='utf-8') as file:
        return [{k: int(v) if k == 'epoch' else float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def environment(device: torch.device, num_processes: int) -> Dict[str, Any]:
    """Where and with what a run was made, as flat JSON values."""
    gpu = torch.cuda.get_device_name(device) if device.type == 'cuda' else None
    return dict(
        iebn_zoo=__version__, timm=timm.__version__, torch=torch.__version__, python=platform.python_version(),
        platform=platform.platform(), cpu=_cpu_name(), cpu_count=os.cpu_count(), threads=torch.get_num_threads(),
        gpu=gpu, device=str(device), num_processes=num_processes, commit=_commit(),
        command=[Path(sys.argv[0]).name, *sys.argv[1:]], started=time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()))


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
    # only of a checkout of this package: an installed one may lie inside somebody else's repository
    root = Path(__file__).resolve().parents[2]
    if not (root / '.git').exists():
        return None
    try:
        done = subprocess.run(['git', '-C', str(root), 'rev-parse', 'HEAD'], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def plot_curves(run: Path, rows: Sequence[Row]) -> Path:
    """Draw loss and top-1 over the epochs into ``curves.png``; returns its path."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    epochs = [row['epoch'] + 1 for row in rows]
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout='constrained')
    left.plot(epochs, [r['train_loss'] for r in rows], marker='.', label='train (as optimized)')
    left.plot(epochs, [r['eval_loss'] for r in rows], marker='.', label='eval')
    right.plot(epochs, [r['eval_top1'] for r in rows], marker='.', color='C1', label='eval')
    if 'eval_ema_top1' in rows[0]:
        left.plot(epochs, [r['eval_ema_loss'] for r in rows], marker='.', label='eval, EMA')
        right.plot(epochs, [r['eval_ema_top1'] for r in rows], marker='.', color='C2', label='eval, EMA')
    for axes, label in ((left, 'loss'), (right, 'top-1 (%)')):
        axes.set(xlabel='epoch', ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_write(run / CURVES) as file:
        fig.savefig(file, format='png', dpi=120)
    plt.close(fig)
    return run / CURVES
