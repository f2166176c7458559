"""Rows of summary.csv, as training writes them."""
from pathlib import Path

import yaml

from iebn_zoo.training.run.records import write_args, write_summary


def rows(top1, **more):
    return [dict(epoch=i, train_loss=3.0 - i, eval_loss=3.5 - i, eval_top1=t, eval_top5=t + 10, lr=0.1 / (i + 1), **{
        k: v[i] for k, v in more.items()}) for i, t in enumerate(top1)]


def write_run(directory: Path, top1, model='bn_resnet20_cifar') -> Path:
    directory.mkdir(parents=True)
    write_summary(directory, rows(top1))
    write_args(directory, dict(model=model))
    assert yaml.safe_load((directory / 'args.yaml').read_text())['model'] == model
    return directory
