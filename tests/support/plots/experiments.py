"""Folders of finished runs with a log each, made of the accuracies that a test gives."""
from pathlib import Path
from typing import Any, Sequence

import yaml

from iebn_zoo.training.run.records import write_args, write_summary, write_timing
from tests.support.plots.rows import rows


def write_logs(root: Path, arm: str, seed: int, top1: Sequence[float], model: str = '', **args: Any) -> Path:
    """Write root/ARM/seedN as training leaves it, without weights; ``epochs`` is as long as ``top1`` if not given."""
    run = root / arm / f'seed{seed}'
    run.mkdir(parents=True)
    write_summary(run, rows(top1))
    write_timing(run, [dict(epoch=i, seconds=180.0, images_per_second=100.0) for i in range(len(top1))])
    write_args(run, {'model': model or f'{arm}_resnet20_cifar', 'seed': seed, 'epochs': len(top1),
                     'data_dir': '/x/digits', 'model_kwargs': {}, **args})
    return run


def write_notes(root: Path, **notes: Any) -> None:
    """Write experiment.yaml."""
    root.mkdir(parents=True, exist_ok=True)
    (root / 'experiment.yaml').write_text(yaml.safe_dump(notes, sort_keys=False), encoding='utf-8')


def grid(root: Path) -> Path:
    """Write a small experiment: BatchNorm, SE and IEBN with three seeds and two epochs."""
    for arm, last in (('bn', (50.0, 51.0, 52.0)), ('se', (52.1, 52.5, 53.1)), ('iebn', (54.0, 55.0, 56.0))):
        for seed, top1 in enumerate(last):
            write_logs(root, arm, seed, [top1 - 10, top1])
    return root
