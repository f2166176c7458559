"""THE checkpoint: one file that holds a whole run's state, written atomically, read without unpickling code."""
import random
import shutil
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import numpy as np
import torch

from iebn_zoo.errors import IEBNZooError, UsageError
from iebn_zoo.files import atomic_write

LAST = 'last.pth.tar'
BEST = 'model_best.pth.tar'
_REQUIRED = ('arch', 'model_args', 'state_dict', 'epoch')


def save_checkpoint(path: Union[str, Path], checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint so that ``path`` holds the old or the new one, never a part."""
    with atomic_write(path) as file:
        torch.save(dict(checkpoint), file)


def load_checkpoint(path: Union[str, Path]) -> Dict[str, Any]:
    """Read a training checkpoint (``weights_only``: tensors and plain values, no code).

    Returns:
        A dict with at least ``arch``, ``model_args``, ``state_dict`` and ``epoch``.

    Raises:
        UsageError: There is no such file.
        IEBNZooError: The file is damaged, or not one of our checkpoints.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f'no checkpoint at {path}.\nExpected a file such as {LAST}, written by training.')
    try:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as e:  # torch.load raises a dozen types for a damaged file
        raise IEBNZooError(
            f'cannot read the checkpoint {path}: it is truncated, damaged or no checkpoint ({type(e).__name__}).\n'
            f'Use another one of the run, such as {BEST} or checkpoint-N.pth.tar.') from e
    lacking = [k for k in _REQUIRED if not isinstance(checkpoint, dict) or k not in checkpoint]
    if lacking:
        raise IEBNZooError(
            f'{path} is no checkpoint of a training run: it has no {lacking[0]!r}.\n'
            f'Expected a file written by training, such as {LAST}.')
    return checkpoint


def without_other_head(model: torch.nn.Module, state_dict: Mapping[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """``state_dict`` with the new head of ``model`` where the checkpoint's is for another number of classes."""
    own = model.state_dict()
    heads = model.pretrained_cfg.get('classifier') or ()
    prefixes = tuple(f'{head}.' for head in ((heads,) if isinstance(heads, str) else heads))
    return {k: own[k] if k.startswith(prefixes) and k in own and own[k].shape != v.shape else v
            for k, v in state_dict.items()}


def load_weights(model: torch.nn.Module, state_dict: Mapping[str, torch.Tensor], source: str) -> None:
    """Strict ``load_state_dict`` whose error names the first key that does not fit.

    Raises:
        IEBNZooError: A tensor is missing, foreign or of another shape.
    """
    own = model.state_dict()
    problems: List[str] = [f'lacks {k!r}' for k in own if k not in state_dict]
    problems += [f'has an unknown {k!r}' for k in state_dict if k not in own]
    problems += [f'has {k!r} as {tuple(state_dict[k].shape)}, not {tuple(v.shape)}'
                 for k, v in own.items() if k in state_dict and state_dict[k].shape != v.shape]
    if problems:
        raise IEBNZooError(
            f'the weights in {source} are of another model: it {problems[0]} ({len(problems)} differences).\n'
            f'Name the model, and the number of classes and channels, that the weights were trained with.')
    model.load_state_dict(state_dict)


def rng_state(device: torch.device) -> Dict[str, Any]:
    """State of every generator of this process, in types that ``weights_only`` reads."""
    version, internal, gauss = random.getstate()
    name, keys, pos, has_gauss, cached = np.random.get_state()
    state = {
        'python': [version, list(internal), gauss],
        'numpy': [str(name), torch.from_numpy(keys.astype(np.int64)), int(pos), int(has_gauss), float(cached)],
        'torch': torch.get_rng_state(),
    }
    if device.type == 'cuda':
        state['cuda'] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Undo everything that happened since ``rng_state``."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    name, keys, pos, has_gauss, cached = state['numpy']
    np.random.set_state((name, keys.numpy().astype(np.uint32), pos, has_gauss, cached))
    torch.set_rng_state(state['torch'])
    if device.type == 'cuda' and 'cuda' in state:
        torch.cuda.set_rng_state(state['cuda'], device)


class CheckpointStore:
    """The checkpoints of a run directory: the last, the best, and the ``history`` best epochs.

    Args:
        directory: The run.
        history: How many ``checkpoint-<epoch>.pth.tar`` to keep.
        decreasing: A smaller metric is better.
    """

    def __init__(self, directory: Path, history: int, decreasing: bool = False) -> None:
        self.directory = directory
        self.history = history
        self.decreasing = decreasing
        self.kept: List[Tuple[float, int]] = []
        self.best: Optional[Tuple[float, int]] = None

    def better(self, a: float, b: float) -> bool:
        return a < b if self.decreasing else a > b

    def rank(self, metric: float, epoch: int) -> None:
        """Take an epoch into the ranking, before its checkpoint is written: the checkpoint carries the ranking."""
        if self.best is None or self.better(metric, self.best[0]):
            self.best = (metric, epoch)
        ranked = sorted([*self.kept, (metric, epoch)], key=lambda k: k[0] if self.decreasing else -k[0])
        self.kept = ranked[:self.history]

    def write(self, checkpoint: Mapping[str, Any]) -> None:
        """Write the last checkpoint; copy it to where else it belongs; drop what left the ranking."""
        epoch = checkpoint['epoch']
        last = self.directory / LAST
        save_checkpoint(last, dict(checkpoint, best=self.best, kept=self.kept))
        if self.best is not None and self.best[1] == epoch:
            _copy(last, self.directory / BEST)
        keep = {f'checkpoint-{e}.pth.tar' for _, e in self.kept}
        if f'checkpoint-{epoch}.pth.tar' in keep:
            _copy(last, self.directory / f'checkpoint-{epoch}.pth.tar')
        for old in self.directory.glob('checkpoint-*.pth.tar'):
            if old.name not in keep:
                old.unlink()

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Continue the ranking that a checkpoint carries."""
        best = checkpoint.get('best')
        self.best = tuple(best) if best else None
        self.kept = [tuple(k) for k in checkpoint.get('kept', [])]


def _copy(source: Path, target: Path) -> None:
    with open(source, 'rb') as read, atomic_write(target) as write:
        shutil.copyfileobj(read, write, 1 << 20)
