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

# 'module:class', called in this order; by name, because an extension imports training
EXTENSIONS: Tuple[str, ...] = (
    'iebn_zoo.training.callbacks.freeze:FreezeStatistics',
    'iebn_zoo.training.callbacks.freeze:FreezeBackbone',
    'iebn_zoo.studies.noise.callbacks:NormNoiseAttack',
    'iebn_zoo.studies.noise.callbacks:MixDatasetAttack',
    'iebn_zoo.studies.noise.callbacks:BatchNoise',
    'iebn_zoo.studies.noise.callbacks:GateStatistics',
    'iebn_zoo.training.callbacks.tensorboard:TensorBoard',
    'iebn_zoo.training.callbacks.wandb_log:WandbLog',
    'iebn_zoo.training.callbacks.preview:Preview',
)


class Extension:
    """Base of all extensions: every method does nothing.

    A resumed run must continue bit for bit, also in the middle of an epoch: what an extension draws must depend on
    (seed, epoch, step, rank) alone, or be part of ``state_dict``. No method may draw from the global generators.

    Attributes:
        name: The key of its state in a checkpoint.
        free_flags: The names of its flags that may differ after --resume, as they do not change what is computed.
    """

    name = ''
    free_flags: Tuple[str, ...] = ()

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the flags of the extension; a recipe may set them too."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Optional['Extension']:
        """Make the extension that the flags ask for, or return None.

        Raises:
            UsageError: The flags contradict.
        """
        return None

    def prepare_model(self, model: nn.Module) -> None:
        """Change the new model in place, before it is moved, copied (EMA), wrapped (DDP) or given weights to resume.

        The weights of ``--pretrained`` and ``--initial-checkpoint`` are loaded. State dict keys must stay the same.
        """

    def prepare(self, run: 'Run') -> None:
        """Build what it needs from the network, the loaders and the settings of the run.

        The last check before the run directory is touched: raise UsageError here for data that does not fit.
        """

    def data_digests(self) -> Dict[str, str]:
        """Return the digest of images that it reads by a word for them; they must be the same after a resume."""
        return {}

    def run_start(self, run: 'Run') -> None:
        """Begin: the directory is ready and a resumed state is loaded; ``run.rows`` has the finished epochs."""

    def epoch_start(self, run: 'Run', epoch: int, step: int) -> None:
        """Begin ``epoch`` at batch ``step``, which is above 0 where a resume continues the epoch."""

    def companions(self, epoch: int, step: int) -> Optional[torch.Tensor]:
        """Return images to append to batch ``step``, after mixup, or None; their logits do not count in the loss.

        Returns:
            (K, C, H, W), normalized and on the device.
        """
        return None

    def epoch_end(self, run: 'Run', row: Dict[str, Any]) -> None:
        """Add columns to ``row``, on every process, after the evaluation and before the checkpoint of the epoch.

        ``row`` becomes a line of summary.csv and part of the checkpoint: its values are plain floats under the same
        names in every epoch, and no measured times.
        """

    def epoch_written(self, run: 'Run', row: Dict[str, Any]) -> None:
        """Write other logs, on every process, once the checkpoint of the epoch and summary.csv are on disk."""

    def close(self, run: 'Run') -> None:
        """Finish, also after an error."""

    def state_dict(self) -> Dict[str, Any]:
        """Return tensors and plain values for the checkpoint."""
        return {}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Go back to the state that ``state_dict`` returned."""


def extension_classes() -> List[Type[Extension]]:
    """Import the classes that ``EXTENSIONS`` names."""
    found = []
    for entry in EXTENSIONS:
        module, _, name = entry.partition(':')
        found.append(getattr(importlib.import_module(module), name))
    return found


def create_extensions(args: argparse.Namespace) -> List[Extension]:
    """Create the extensions that the flags ask for, in order."""
    made = [cls.from_args(args) for cls in extension_classes()]
    return [extension for extension in made if extension is not None]
