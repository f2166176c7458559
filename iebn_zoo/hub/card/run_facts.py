"""What a training run says, read from its files for the card."""
import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import timm
import yaml

from iebn_zoo.data.named import VAL_NAMES, is_folder
from iebn_zoo.layers.start import PAPER
from iebn_zoo.training.run.origin import license_of, start_of
from iebn_zoo.training.run.records import ARGS, Row
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.places import NAMED_DATASET, canonical_name, local_name
from iebn_zoo.util.ranking import WEIGHTS_NAMES, best_row, ranked_weights


class Dataset(NamedTuple):
    """The data that the weights were trained on: its Hub id, or None, and its name for people."""

    id: Optional[str]
    name: str


class Recipe(NamedTuple):
    """Flags, and the epoch (counted from 0) and the update of the epoch where the training by them ended."""

    epoch: int
    step: int
    args: Mapping[str, Any]


# by the name that timm uses behind torch/: the dataset, and its number of classes
_HUB_DATASETS = {
    'cifar100': (Dataset('uoft-cs/cifar100', 'CIFAR-100'), 100),
    'cifar10': (Dataset('uoft-cs/cifar10', 'CIFAR-10'), 10),
    'mnist': (Dataset('ylecun/mnist', 'MNIST'), 10),
    'fashion_mnist': (Dataset('zalando-datasets/fashion_mnist', 'Fashion-MNIST'), 10),
}
_COLUMNS = ('epoch', 'train_loss', 'eval_loss', 'eval_top1', 'eval_top5')
_TIMES = ('epoch', 'seconds', 'images_per_second')


@dataclass(frozen=True)
class RunFacts:
    """What the card says of a run.

    Attributes:
        epoch: The exported epoch, counted from 0.
        ema: The exported weights are the EMA weights.
        rows: summary.csv.
        timing: timing.csv; of an older run the same columns of summary.csv, or [].
        args: The flags by which the exported weights were trained, or {}.
        environment: environment.json, or {}.
        num_eval_images: Number of images behind each accuracy.
        dataset: The data of the run.
        dataset_split: The split that the run was evaluated on, or None where the run does not say.
        gate_start: ``'paper'`` or ``'bn'``: how new gates began. None where the run did not begin with new weights.
        scratch: The run, or the runs of ours that it goes back to, started from random weights.
        license: Hub id of the license that follows from what the run started from, or None where that is not known.
        planned_epochs: Number of epochs that the run was asked for last, or None where it does not say.
        earlier: The recipes by which the run was trained before it was resumed with others, the first one first.
    """

    epoch: int
    ema: bool
    rows: List[Row]
    timing: List[Row]
    args: Dict[str, Any]
    environment: Dict[str, Any]
    num_eval_images: Optional[int]
    dataset: Dataset
    dataset_split: Optional[str]
    gate_start: Optional[str]
    scratch: bool
    license: Optional[str]
    planned_epochs: Optional[int]
    earlier: Sequence[Recipe] = ()

    @property
    def exported_row(self) -> Optional[Row]:
        """The row of summary.csv that belongs to the exported epoch."""
        return next((row for row in self.rows if row['epoch'] == self.epoch), None)

    @property
    def best_row(self) -> Optional[Mapping[str, Any]]:
        """The row of the epoch that training took for the best."""
        return best_row(self.rows, self.metric)

    @property
    def metric(self) -> str:
        """The metric by which training ranked its epochs."""
        return str(self.args.get('eval_metric') or 'top1')

    @property
    def ranked(self) -> str:
        """The weights that training ranked, for people."""
        return WEIGHTS_NAMES[ranked_weights(self.rows[-1])]

    @property
    def base_model(self) -> Optional[str]:
        """Hub id of the weights that the run started from, or None."""
        return base_model_of(self.args)

    def column(self, metric: str) -> str:
        """Return the column of summary.csv that holds ``metric`` of the exported weights."""
        return f'eval_ema_{metric}' if self.ema else f'eval_{metric}'

    def counted(self, percentage: float) -> str:
        """Write a percentage of the evaluation images with two decimals, and the number of images where it is known."""
        count = percentage * (self.num_eval_images or 0) / 100
        exact = self.num_eval_images and abs(count - round(count)) < 0.01
        return f'{percentage:.2f} ({round(count):,})' if exact else f'{percentage:.2f}'

    def mean_time(self, column: str) -> float:
        """Return the mean of a column of ``timing``."""
        return sum(row[column] for row in self.timing) / len(self.timing)


def read_run(
        run: Path,
        checkpoint: Mapping[str, Any],
        num_classes: int,
        ema: bool = False,
        dataset_id: Optional[str] = None,
) -> RunFacts:
    """Read the files of a run. A file that is missing leaves its part empty.

    Args:
        run: Directory of the run.
        checkpoint: The checkpoint whose weights are exported.
        num_classes: Number of classes of the network.
        ema: The EMA weights are exported.
        dataset_id: Hub id of the data, in place of the one that the run tells.

    Raises:
        IEBNZooError: A file is there but cannot be read.
    """
    last, columns = _read_flags(run), (*_COLUMNS, *(['eval_ema_top1'] if ema else []))
    args = _own_args(checkpoint) or last
    rows: List[Row] = _read(run / 'summary.csv', lambda text: _rows(text, columns)) or []
    timing: Optional[List[Row]] = _read(run / 'timing.csv', lambda text: _rows(text, _TIMES))
    start = start_of(checkpoint, args)
    new = args and not (args.get('pretrained') or args.get('initial_checkpoint'))
    return RunFacts(
        epoch=checkpoint['epoch'], ema=ema, rows=rows,
        timing=[row for row in rows if row.keys() >= set(_TIMES)] if timing is None else timing, args=args,
        environment=_read(run / 'environment.json', lambda text: _mapping(json.loads(text))) or {},
        num_eval_images=checkpoint.get('num_eval_images'),
        dataset=dataset_of(args, num_classes, dataset_id), dataset_split=_split(args),
        # a checkpoint that names no start was written when there was the paper's start only
        gate_start=checkpoint['model_args'].get('start', PAPER) if new else None,
        scratch=start['scratch'], license=license_of(start),
        planned_epochs=checkpoint.get('planned_epochs', planned_epochs(run, args)), earlier=_earlier(checkpoint))


def planned_epochs(run: Path, args: Mapping[str, Any]) -> Optional[int]:
    """Return the number of epochs that a run was asked for last, which may be more than its weights were trained for.

    Args:
        run: Directory of the run.
        args: The flags by which its weights were trained.

    Raises:
        IEBNZooError: args.yaml is there but cannot be read.
    """
    return _read_flags(run).get('epochs', args.get('epochs'))


def read_args(run: Path, checkpoint: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the flags by which the weights of a checkpoint were trained; {} where nothing tells them.

    They are those that the checkpoint holds: args.yaml has the flags with which the run was resumed last, maybe with
    others and after this checkpoint. It is read for a checkpoint that holds none.

    Raises:
        IEBNZooError: args.yaml is needed and there, but cannot be read.
    """
    return _own_args(checkpoint) or _read_flags(run)


def base_model_of(args: Mapping[str, Any]) -> Optional[str]:
    """Return the Hub id of the weights that a run started from, by its flags ``args``; None without one."""
    name = canonical_name(str(args.get('model') or ''))
    if not args.get('pretrained'):
        return None
    if name.startswith('hf-hub:'):
        return name[len('hf-hub:'):].split('@')[0]
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:  # this timm does not have the tag
        return None
    return (cfg.hf_hub_id or None) if cfg is not None else None


def dataset_of(args: Mapping[str, Any], num_classes: int, dataset_id: Optional[str]) -> Dataset:
    """Return the data that a run was trained on.

    Args:
        args: Flags of the run.
        num_classes: Number of classes of the network.
        dataset_id: Hub id of the data, which decides if it is given.
    """
    if dataset_id:
        return Dataset(dataset_id, dataset_id)
    name = str(args.get('dataset') or '')
    name = '' if is_folder(name) else name
    # the name of a folder may be private: the card tells it only if it is a known dataset with as many classes
    folder = known_folder(str(args.get('data_dir') or '')) or ''
    known, classes = _HUB_DATASETS.get((name or folder).rpartition('/')[2].lower(), (None, None))
    if known is not None and (name or classes == num_classes):
        return known
    return Dataset(None, name if NAMED_DATASET.fullmatch(name) else 'an image folder')


def known_folder(data_dir: str) -> Optional[str]:
    """Return the last part of a path if it is the name of a known dataset, else None, because it may be private."""
    folder = re.split(r'[\\/]', data_dir.rstrip('\\/'))[-1]
    return folder if folder.lower() in _HUB_DATASETS else None


def _own_args(checkpoint: Mapping[str, Any]) -> Dict[str, Any]:
    own = checkpoint.get('args')
    return own if isinstance(own, dict) else {}


def _read_flags(run: Path) -> Dict[str, Any]:
    return _read(run / ARGS, lambda text: _mapping(yaml.safe_load(text))) or {}


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
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


def _rows(text: str, columns: Tuple[str, ...]) -> List[Row]:
    reader = csv.DictReader(text.splitlines())
    lacking = [c for c in columns if c not in (reader.fieldnames or [])]
    if lacking:
        raise ValueError(f'it has no column {lacking[0]!r}')
    # a column that came with a later epoch is empty in the rows before it
    return [{k: int(v) if k == 'epoch' else float(v) for k, v in row.items() if v != '' or k in columns}
            for row in reader]


def _earlier(checkpoint: Mapping[str, Any]) -> List[Recipe]:
    found = checkpoint.get('earlier_recipes', [])
    try:
        return [Recipe(int(recipe['epoch']), int(recipe['step']), dict(recipe['args'])) for recipe in found]
    except (KeyError, TypeError, ValueError) as e:
        raise IEBNZooError('earlier_recipes of the checkpoint has another form than training writes.\n'
                           'Give a checkpoint of iebn-zoo train.') from e


def _split(args: Mapping[str, Any]) -> Optional[str]:
    if args.get('holdout'):
        return None  # a part of the training split, which has no name on the Hub
    name, given = str(args.get('dataset') or ''), str(args.get('val_split') or '')
    if given in ('', *VAL_NAMES) and name.lower().startswith('torch/') and not is_folder(name):
        return 'test'  # whatever the flag calls it, torchvision has one
    return local_name(given) or None
