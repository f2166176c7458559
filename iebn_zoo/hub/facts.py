"""What a run and its checkpoint say, gathered for the card."""
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from iebn_zoo.errors import IEBNZooError
from iebn_zoo.layers import IEBatchNorm2d

_HUB_DATASETS = {'cifar100': ('uoft-cs/cifar100', 'CIFAR-100'), 'cifar10': ('uoft-cs/cifar10', 'CIFAR-10'),
                 'mnist': ('ylecun/mnist', 'MNIST'),
                 'fashion_mnist': ('zalando-datasets/fashion_mnist', 'Fashion-MNIST')}


@dataclass
class Facts:
    """Everything the card may say.

    Attributes:
        arch: Registered name.
        is_iebn: The network has IEBatchNorm2d layers.
        parameters: Their number.
        gates: Gated channels.
        macs: Multiply-accumulates of convolutions and matrix products for one image.
        data_config: Input settings as trained.
        label_names: Classes in order, or None.
        num_classes: Their number.
        epoch: Exported epoch, from 0.
        ema: The exported weights are the EMA's.
        rows: summary.csv.
        args: args.yaml, or {}.
        environment: environment.json, or {}.
        num_eval_images: Images behind each accuracy.
        dataset_id: Hub id, or None.
        dataset_name: For people.
    """

    arch: str
    is_iebn: bool
    parameters: int
    gates: int
    macs: int
    data_config: Dict[str, Any]
    label_names: Optional[List[str]]
    num_classes: int
    epoch: int
    ema: bool
    rows: List[Dict[str, float]]
    args: Dict[str, Any]
    environment: Dict[str, Any]
    num_eval_images: Optional[int]
    dataset_id: Optional[str]
    dataset_name: str

    @property
    def title(self) -> str:
        return f'Model card for {self.arch}'

    @property
    def exported_row(self) -> Optional[Dict[str, float]]:
        """The row of summary.csv that belongs to the exported epoch."""
        return next((row for row in self.rows if row['epoch'] == self.epoch), None)

    def column(self, metric: str) -> str:
        """Column of a metric of the exported weights."""
        return f'eval_ema_{metric}' if self.ema else f'eval_{metric}'

    def best_row(self) -> Optional[Dict[str, float]]:
        """The row with the highest top-1 of the exported kind of weights."""
        return max(self.rows, key=lambda row: row[self.column('top1')]) if self.rows else None


def gather(run: Path, checkpoint: Dict[str, Any], model: nn.Module, ema: bool, dataset_id: Optional[str]) -> Facts:
    """Read the run's files; one that is missing leaves its part empty.

    Raises:
        IEBNZooError: A file is there but cannot be read.
    """
    args = _read(run / 'args.yaml', yaml.safe_load) or {}
    size = checkpoint['data_config']['input_size']
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, *size))
    known_id, name = _dataset(args)
    gated = [m for m in model.modules() if isinstance(m, IEBatchNorm2d)]
    return Facts(
        arch=checkpoint['arch'], is_iebn=bool(gated), parameters=sum(p.numel() for p in model.parameters()),
        gates=sum(m.num_features for m in gated), macs=counter.get_total_flops() // 2,
        data_config=checkpoint['data_config'], label_names=checkpoint.get('label_names'),
        num_classes=model.num_classes, epoch=checkpoint['epoch'], ema=ema,
        rows=_read(run / 'summary.csv', _rows) or [], args=args,
        environment=_read(run / 'environment.json', json.loads) or {},
        num_eval_images=checkpoint.get('num_eval_images'), dataset_id=dataset_id or known_id,
        dataset_name=dataset_id or name)


def _read(path: Path, parse: Any) -> Any:
    if not path.is_file():
        return None
    try:
        return parse(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, KeyError, yaml.YAMLError) as e:
        raise IEBNZooError(f'cannot read {path}: {str(e).splitlines()[0]}.\nRestore the file, or remove it.') from e


def _rows(text: str) -> List[Dict[str, float]]:
    return [{k: int(v) if k == 'epoch' else float(v) for k, v in row.items()}
            for row in csv.DictReader(text.splitlines())]


def _dataset(args: Dict[str, Any]) -> Any:
    # a folder's own name may be anything, also private: only a known one is told
    for candidate in (str(args.get('dataset') or '').rpartition('/')[2], Path(str(args.get('data_dir') or '')).name):
        if candidate.lower() in _HUB_DATASETS:
            return _HUB_DATASETS[candidate.lower()]
    return None, 'an image folder'
