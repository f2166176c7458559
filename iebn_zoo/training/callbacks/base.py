"""Hook points of training: what an addition (a noise attack, another log) may do, and when.

An addition is a class and one line in ``EXTENSIONS``. An extension whose flags are not given is not created, so that
a run without it computes the same bits as if it did not exist.
"""
import argparse
import importlib
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple, Type

import torch
from torch import nn

if TYPE_CHECKING:
    from iebn_zoo.training.engine.run import Run

# 'module:class', called in this order; by name, because an extension imports training and not the reverse
EXTENSIONS: Tuple[str, ...] = (
    'iebn_zoo.training.callbacks.freeze:FreezeStatistics',
    'iebn_zoo.training.callbacks.freeze:FreezeBackbone',
    'iebn_zoo.studies.noise.callbacks:NormNoiseAttack',
    'iebn_zoo.studies.noise.callbacks:MixDatasetAttack',
    'iebn_zoo.studies.noise.callbacks:BatchNoise',
    'iebn_zoo.studies.noise.callbacks:GateStatistics',
    'iebn_zoo.training.callbacks.tensorboard:TensorBoard',
    'iebn_zoo.training.callbacks.preview:Preview',
)


class Extension:
    """Base of all: every method does nothing.

    A resumed run must continue bit for bit, also in the middle of an epoch: what an extension draws must depend on
    (seed, epoch, step, rank) alone, or be part of ``state_dict``. No method may draw from the global generators.

    Attributes:
        name: Key of its state in a checkpoint.
        free_flags: Its flags (as attribute names) that do not change what is computed: they may differ after --resume.
    """

    name = ''
    free_flags: Tuple[str, ...] = ()

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add its flags; a recipe may set them too."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Optional['Extension']:
        """The extension that the flags ask for, or None.

        Raises:
            UsageError: The flags contradict.
        """
        return None

    def prepare_model(self, model: nn.Module) -> None:
        """Change the new model in place, before it is moved, copied (EMA), wrapped (DDP) or given weights to resume.

        State dict keys must stay the same. After ``--pretrained`` and ``--initial-checkpoint`` weights are loaded.
        """

    def prepare(self, run: 'Run') -> None:
        """Build what it needs from the network, the loaders and the settings of the run.

        The last check before the run directory is touched: raise UsageError here for data that does not fit.
        """

    def run_start(self, run: 'Run') -> None:
        """The directory is ready and a resumed state is loaded: ``run.rows`` has the finished epochs."""

    def epoch_start(self, run: 'Run', epoch: int, step: int) -> None:
        """Training of ``epoch`` begins, or goes on, at batch ``step`` (from 0; above 0 after a resume)."""

    def companions(self, epoch: int, step: int) -> Optional[torch.Tensor]:
        """Images (K, C, H, W), normalized and on the device, that go through the network behind batch ``step``.

        They are appended after mixup; their logits are dropped before the loss.
        """
        return None

    def epoch_end(self, run: 'Run', row: Dict[str, Any]) -> None:
        """After the evaluation, on every process: add columns (plain floats, the same in every epoch) to ``row``.

        ``row`` becomes a line of summary.csv and part of the checkpoint, so its values may not hold measured time.
        The checkpoint of the epoch is written after this.
        """

    def epoch_written(self, run: 'Run', row: Dict[str, Any]) -> None:
        """On every process, once the checkpoint of the epoch and summary.csv are on disk: write to other logs."""

    def close(self, run: 'Run') -> None:
        """The run ends, also by an error."""

    def state_dict(self) -> Dict[str, Any]:
        """Tensors and plain values for the checkpoint."""
        return {}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Undo everything since ``state_dict``."""


def extension_classes() -> List[Type[Extension]]:
    """The classes that ``EXTENSIONS`` names."""
    found = []
    for entry in EXTENSIONS:
        module, _, name = entry.partition(':')
        found.append(getattr(importlib.import_module(module), name))
    return found


def create_extensions(args: argparse.Namespace) -> List[Extension]:
    """Those that the flags ask for, in order."""
    made = [cls.from_args(args) for cls in extension_classes()]
    return [extension for extension in made if extension is not None]
