"""Which checkpoint a run continues from, and whether it continues with what it was started with."""
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from iebn_zoo.training.callbacks.base import extension_classes
from iebn_zoo.training.config.optimizer import decay_epochs
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.training.run.checkpoint import LAST, PREVIOUS, RECOVERY, DamagedError, load_checkpoint
from iebn_zoo.training.run.lock import RunLock
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.places import local_name
from iebn_zoo.util.processes import Processes

IF_ANY = 'if-any'
# the fields that a resume reads, and their types
_FIELDS = {'args': dict, 'machine': dict, 'num_train_images': int, 'model_args': dict,
           'state_dict': dict, 'optimizer': dict, 'rows': list, 'timing': list, 'skipped': list, 'rollbacks': int,
           'extensions': dict, 'rng': list, 'loss_sums': list, 'batch_size': int, 'updates': int, 'epoch': int}
# flags that do not change what is computed
_FREE = ('output', 'resume', 'overwrite', 'allow_recipe_change', 'config', 'data_dir', 'dataset_download', 'workers',
         'device_data', 'cuda_graph', 'device', 'log_interval', 'checkpoint_hist', 'checkpoint_steps', 'on_nan',
         'stop_after')
_OLD_DECAY_EPOCHS = 90

_KINDS = {'train': 'training', 'eval': 'evaluation', 'mix_dataset': '--mix-dataset'}


@dataclass
class Found:
    """A checkpoint to continue from.

    Attributes:
        checkpoint: The content.
        path: The file.
        damaged: Files of the run that may be newer and are damaged.
        asked: The user named the file: it may be of another directory, or older than the newest.
    """

    checkpoint: Dict[str, Any]
    path: Path
    damaged: List[Path] = field(default_factory=list)
    asked: bool = False


def find_checkpoint(run: Path, asked: str = 'auto') -> Optional[Found]:
    """Find the checkpoint to continue from; damaged ones are named on stderr.

    Args:
        run: The run directory.
        asked: A file; or ``'auto'`` for the newest whole checkpoint of the run; or ``'if-any'`` for the newest, or None
            where the run has no checkpoint.

    Raises:
        UsageError: There is no checkpoint.
        IEBNZooError: All are damaged, or one cannot be read, or an earlier version wrote less than a resume needs.
    """
    if asked == IF_ANY and not any(run.glob('*.pth.tar')):
        return None
    if asked not in ('auto', IF_ANY):
        path = Path(asked)
        return Found(_resumable(path, load_checkpoint(path)), path, asked=True)
    good: List[Tuple[Tuple[int, int], Path, Dict[str, Any]]] = []
    damaged: Dict[Path, DamagedError] = {}
    for name in (LAST, RECOVERY, PREVIOUS):
        path = run / name
        if not path.is_file() or (name == PREVIOUS and good):
            continue
        try:
            checkpoint = load_checkpoint(path)
        except DamagedError as e:
            damaged[path] = e
            continue
        position = _resumable(path, checkpoint)['position']
        good.append(((position['epoch'], position['step']), path, checkpoint))
    if not good:
        if damaged:
            raise next(iter(damaged.values()))
        raise UsageError(
            f'no checkpoint at {run / LAST}.\n'
            f'Start the run without --resume (with --overwrite if it died before its first checkpoint).')
    (epoch, step), path, checkpoint = max(good, key=lambda g: g[0])
    for bad, error in damaged.items():
        print(f'warning: {str(error).splitlines()[0]}\n'
              f'continuing from {path.name} (epoch {epoch}, step {step}); the other is renamed to {bad.name}.damaged',
              file=sys.stderr, flush=True)
    return Found(checkpoint, path, list(damaged))


def find_together(processes: Processes, run: Path, lock: RunLock, asked: str = 'auto') -> Optional[Found]:
    """Call ``find_checkpoint`` on the first process, for all: another machine may not see the directory.

    Raises:
        As ``find_checkpoint``; UsageError also where another run is writing the directory.
    """
    def find() -> Optional[Found]:
        if run.is_dir():
            lock.acquire(run)  # what is found must not become old while it is read
        return find_checkpoint(run, asked)

    return processes.on_first(find)


def put_aside(damaged: List[Path]) -> None:
    """Rename damaged files, so that nothing takes them for good ones."""
    for path in damaged:
        try:
            os.replace(path, path.with_name(f'{path.name}.damaged'))
        except OSError as e:
            raise IEBNZooError(f'cannot rename {path}: {e.strerror or e}.\nExpected a writable directory.') from e


def _resumable(path: Path, checkpoint: Dict[str, Any]) -> Dict[str, Any]:
    if 'schema' not in checkpoint or 'position' not in checkpoint:
        raise IEBNZooError(
            f'{path} was written by an earlier version, without what an exact resume needs.\n'
            f'Its weights can be used: --initial-checkpoint {path.name}, validate, export.')
    position = checkpoint['position']
    if not isinstance(position, dict) or not all(isinstance(position.get(key), int) for key in ('epoch', 'step')):
        raise _odd(path, 'position')
    return checkpoint


def check_fields(path: Path, checkpoint: Dict[str, Any]) -> None:
    """Check that a checkpoint has the fields that a resume reads.

    Its checksum shows that the file is whole, not that training wrote it.

    Raises:
        IEBNZooError: A field is missing or of another type.
    """
    odd = next((key for key, kind in _FIELDS.items() if not isinstance(checkpoint.get(key), kind)), None)
    odd = odd or next((key for key in ('rows', 'timing') if not all(
        isinstance(row, dict) and isinstance(row.get('epoch'), int) for row in checkpoint[key])), None)
    if not isinstance(checkpoint.get('earlier_recipes', []), list):  # which earlier versions did not write
        odd = odd or 'earlier_recipes'
    if odd is not None:
        raise _odd(path, odd)


def _odd(path: Path, field: str) -> IEBNZooError:
    return IEBNZooError(f'{path} cannot be resumed: its {field} is none that training writes.\n'
                        f'Expected a checkpoint of iebn-zoo train, such as {LAST}.')


def with_old_defaults(args: TrainSettings, checkpoint: Dict[str, Any]) -> TrainSettings:
    """Return the flags of a run that is resumed, with a default of the version that began it where it has changed.

    ``--decay-epochs`` was 90 for every schedule; its default now depends on the schedule.

    Args:
        args: The flags.
        checkpoint: The checkpoint to resume.
    """
    then = checkpoint.get('args')
    if args.decay_epochs is None and isinstance(then, dict) and then.get('decay_epochs') == _OLD_DECAY_EPOCHS:
        return replace(args, decay_epochs=then['decay_epochs'])
    return args


def check_recipe(
        checkpoint: Dict[str, Any],
        args: TrainSettings,
        defaults: Dict[str, Any],
        data: Optional[Dict[str, Any]] = None,
) -> bool:
    """Compare the flags and the data of a checkpoint with those of now.

    Args:
        checkpoint: The checkpoint to resume.
        args: The flags.
        defaults: The defaults, for flags that the checkpoint does not have.
        data: The images of now, under the keys of the checkpoint: ``num_train_images``, ``data`` (digests
            by ``train``, ``eval`` and the names of extensions that read images) and ``label_names``.

    Returns:
        Whether a difference changes what is computed.

    Raises:
        UsageError: One does, and ``--allow-recipe-change`` is not given.
    """
    then, now = checkpoint['args'], args.flags()
    if (checkpoint.get('data') or {}).get('train') == ((data or {}).get('data') or {}).get('train', ''):
        then = {**then, 'train_split': now['train_split']}  # another name for the same images
    changes = recipe_changes(then, now, defaults) + _data_changes(checkpoint, data or {})
    if changes and not args.allow_recipe_change:
        raise UsageError(
            f"the run was started with other settings: {'; '.join(changes)}.\n"
            f'Resume with the flags and the images it was started with, or accept the change with '
            f'--allow-recipe-change.')
    if changes and os.environ.get('RANK', '0') == '0':
        print(f"resuming with a changed recipe: {'; '.join(changes)}", flush=True)
    return bool(changes)


def earlier_recipe(checkpoint: Dict[str, Any]) -> Dict[str, Any]:
    """Return what a run keeps of the recipe that it was trained by until it was resumed with another.

    Args:
        checkpoint: The checkpoint that was resumed.

    Returns:
        ``epoch`` and ``step``, where the recipe ended, and ``args``, its flags.
    """
    position = checkpoint['position']
    return dict(epoch=position['epoch'], step=position['step'], args=checkpoint['args'])


def _data_changes(checkpoint: Dict[str, Any], data: Dict[str, Any]) -> List[str]:
    # a checkpoint of an earlier version says less about its images; only what it says is compared
    then, changes = {k: checkpoint[k] for k in data if k in checkpoint}, []
    if then.get('num_train_images', data.get('num_train_images')) != data.get('num_train_images'):
        changes.append(f"training images: {then['num_train_images']} -> {data['num_train_images']}")
    for kind, digest in data['data'].items() if 'data' in then else ():
        if then['data'].get(kind, digest) != digest and not (changes and kind == 'train'):
            changes.append(f'{_KINDS.get(kind, kind)} images: not the same names, order and sizes')
    old, new = then.get('label_names'), data.get('label_names')
    if old and new and list(old) != list(new):
        odd = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        changes.append(f'class {odd}: {_at(old, odd)} -> {_at(new, odd)}')
    return changes


def _at(names: List[str], index: int) -> str:
    return names[index] if index < len(names) else 'none'


def recipe_changes(then: Dict[str, Any], now: Dict[str, Any], defaults: Dict[str, Any]) -> List[str]:
    """Return ``'lr: 0.1 -> 0.05'`` for every flag that differs and changes what is computed."""
    free = {*_FREE, *(flag for extension in extension_classes() for flag in extension.free_flags)}
    both = {k: (then.get(k, defaults.get(k)), v) for k, v in now.items() if k not in free}
    if 'decay_epochs' in both:  # none given and the default given are the same
        a, b = both['decay_epochs']
        both['decay_epochs'] = decay_epochs(a, str(now.get('sched'))), decay_epochs(b, str(now.get('sched')))
    return [f'{k}: {a} -> {b}' for k, (a, b) in both.items() if a != b and not (k == 'model' and _moved(a, b))]


def _moved(then: Any, now: Any) -> bool:
    # a directory elsewhere: the weights are those of the checkpoint, and an architecture that differs does not fit them
    return all(str(name).startswith('local-dir:') for name in (then, now)) and local_name(then) == local_name(now)


def machine_changes(then: Dict[str, Any], now: Dict[str, Any]) -> List[str]:
    """Return ``'processes: 2 -> 1'`` for every difference of the machine that changes the bits of a run."""
    return [f'{k}: {then[k]} -> {v}' for k, v in now.items() if k in then and then[k] != v]
