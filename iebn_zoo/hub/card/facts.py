"""What a run and its checkpoint say, gathered for the card."""
import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import timm
import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from iebn_zoo.hub.card.text import local_name
from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.layers.start import PAPER
from iebn_zoo.training.run.origin import license_of, start_of
from iebn_zoo.training.run.ranking import best_row
from iebn_zoo.util.errors import IEBNZooError

# by the name of timm's torch/ datasets: Hub id, name for people, classes
_HUB_DATASETS = {
    'cifar100': ('uoft-cs/cifar100', 'CIFAR-100', 100),
    'cifar10': ('uoft-cs/cifar10', 'CIFAR-10', 10),
    'mnist': ('ylecun/mnist', 'MNIST', 10),
    'fashion_mnist': ('zalando-datasets/fashion_mnist', 'Fashion-MNIST', 10),
}
_COLUMNS = ('epoch', 'train_loss', 'eval_loss', 'eval_top1', 'eval_top5')
_TIMES = ('epoch', 'seconds', 'images_per_second')


@dataclass
class Facts:
    """Everything the card may say.

    Attributes:
        arch: Registered name.
        is_iebn: The network has IEBatchNorm2d layers.
        is_ours: timm knows the name only once iebn_zoo is imported.
        parameters: Their number.
        gates: Gated channels.
        start: ``'paper'`` or ``'bn'``, of an IEBN network that was trained from new weights, or None.
        gate_weight_frozen: The gates are the same for every image: gate_weight was held at 0.
        macs: Multiply-accumulates of convolutions and matrix products for one image.
        feature_shapes: Of ``features_only=True`` for one image, or None where the network does not offer it.
        data_config: Input settings as trained.
        label_names: Classes in order, or None.
        num_classes: Their number.
        epoch: Exported epoch, from 0.
        ema: The exported weights are the EMA's.
        rows: summary.csv.
        timing: timing.csv, or what a summary.csv of older runs has of it, or [].
        args: args.yaml, or {}.
        environment: environment.json, or {}.
        num_eval_images: Images behind each accuracy.
        dataset_id: Hub id, or None.
        dataset_name: For people.
        dataset_split: What it was evaluated on, or None where the run does not say.
        license: Hub id of the license that follows from what the run started from, or None where that is not known.
    """

    arch: str
    is_iebn: bool
    is_ours: bool
    parameters: int
    gates: int
    start: Optional[str]
    gate_weight_frozen: bool
    macs: int
    feature_shapes: Optional[List[Tuple[int, ...]]]
    data_config: Dict[str, Any]
    label_names: Optional[List[str]]
    num_classes: int
    epoch: int
    ema: bool
    rows: List[Dict[str, float]]
    timing: List[Dict[str, float]]
    args: Dict[str, Any]
    environment: Dict[str, Any]
    num_eval_images: Optional[int]
    dataset_id: Optional[str]
    dataset_name: str
    dataset_split: Optional[str]
    license: Optional[str] = None

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
        """The row of the epoch that training took for the best."""
        return best_row(self.rows, self.metric)

    @property
    def metric(self) -> str:
        """By which training ranked its epochs."""
        return str(self.args.get('eval_metric') or 'top1')


def gather(run: Path, checkpoint: Dict[str, Any], model: nn.Module, ema: bool, dataset_id: Optional[str]) -> Facts:
    """Read the run's files; one that is missing leaves its part empty.

    Raises:
        IEBNZooError: A file is there but cannot be read.
    """
    args = _read(run / 'args.yaml', lambda text: _mapping(yaml.safe_load(text))) or {}
    size = checkpoint['data_config']['input_size']
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, *size))
    known_id, name = _dataset(args, model.num_classes)
    rows = _read(run / 'summary.csv', lambda text: _rows(text, _COLUMNS + (('eval_ema_top1',) if ema else ()))) or []
    timing = _read(run / 'timing.csv', lambda text: _rows(text, _TIMES))
    gated = [m for m in model.modules() if isinstance(m, IEBatchNorm2d)]
    new = not (args.get('pretrained') or args.get('initial_checkpoint'))
    return Facts(
        arch=checkpoint['arch'], is_iebn=bool(gated),
        is_ours=timm.model_entrypoint(checkpoint['arch']).__module__.startswith('iebn_zoo'),
        parameters=sum(p.numel() for p in model.parameters()), gates=sum(m.num_features for m in gated),
        # a checkpoint without it is of a version that knew the paper's start alone
        start=checkpoint['model_args'].get('start', PAPER) if gated and new and args else None,
        gate_weight_frozen=bool(gated) and not any(m.gate_weight.requires_grad for m in gated),
        macs=counter.get_total_flops() // 2, feature_shapes=_feature_shapes(checkpoint),
        data_config=checkpoint['data_config'], label_names=checkpoint.get('label_names'),
        num_classes=model.num_classes, epoch=checkpoint['epoch'], ema=ema,
        rows=rows, timing=[row for row in rows if row.keys() >= set(_TIMES)] if timing is None else timing, args=args,
        environment=_read(run / 'environment.json', lambda text: _mapping(json.loads(text))) or {},
        num_eval_images=checkpoint.get('num_eval_images'), dataset_id=dataset_id or known_id,
        dataset_name=dataset_id or name, dataset_split=_split(args),
        license=license_of(start_of(checkpoint, args or checkpoint.get('args') or {})))


def _read(path: Path, parse: Any) -> Any:
    if not path.is_file():
        return None
    try:
        return parse(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as e:
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise IEBNZooError(f'cannot read {path}: {reason}.\nRestore the file, or remove it.') from e


def _mapping(value: Any) -> Dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f'it holds a {type(value).__name__}, expected names and values')
    return value or {}


def _rows(text: str, columns: Tuple[str, ...]) -> List[Dict[str, float]]:
    reader = csv.DictReader(text.splitlines())
    lacking = [c for c in columns if c not in (reader.fieldnames or [])]
    if lacking:
        raise ValueError(f'it has no column {lacking[0]!r}')
    # a column that came with a later epoch is empty in the rows before it
    return [{k: int(v) if k == 'epoch' else float(v) for k, v in row.items() if v != '' or k in columns}
            for row in reader]


def _feature_shapes(checkpoint: Dict[str, Any]) -> Optional[List[Tuple[int, ...]]]:
    try:
        model = timm.create_model(checkpoint['arch'], features_only=True, **checkpoint['model_args']).eval()
        with torch.inference_mode():
            return [tuple(f.shape) for f in model(torch.zeros(1, *checkpoint['data_config']['input_size']))]
    except Exception:  # each family of timm refuses in its own way
        return None


def _dataset(args: Dict[str, Any], num_classes: int) -> Tuple[Optional[str], str]:
    name = str(args.get('dataset') or '')
    known = _HUB_DATASETS.get(name.rpartition('/')[2].lower())
    if known is None and not name:
        # a folder's own name may be anything, also private: only a known one is told, and only if the data can be it
        folder = re.split(r'[\\/]', str(args.get('data_dir') or '').rstrip('\\/'))[-1]
        known = _HUB_DATASETS.get(folder.lower())
        known = known if known is not None and known[2] == num_classes else None
    if known is not None:
        return known[:2]
    return None, name or 'an image folder'


def _split(args: Dict[str, Any]) -> Optional[str]:
    if args.get('holdout'):
        return None  # a part of the training split, which no name of the Hub's says
    if args.get('val_split'):
        return local_name(str(args['val_split']))
    return 'test' if str(args.get('dataset') or '').startswith('torch/') else None
