"""What a run is going to do: all that the flags and the data tell, checked. Nothing is written yet."""
import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import torch

from iebn_zoo.data.formats import image_mode
from iebn_zoo.data.images import LabelledImages
from iebn_zoo.training.callbacks.base import Extension, create_extensions
from iebn_zoo.training.config.images import open_splits
from iebn_zoo.training.config.limits import allowed_rollbacks
from iebn_zoo.training.config.model import match_num_classes, model_args
from iebn_zoo.training.config.optimizer import check_opt_args, training_epochs
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.training.engine.model_checks import check_sync_bn
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.processes import Processes, start
from iebn_zoo.weights.repository import input_channels


@dataclass(frozen=True)
class Plan:
    """A run that can be built.

    Attributes:
        args: The flags.
        processes: This process among the others.
        epochs: How many epochs the run trains.
        rollbacks_allowed: How often the run may go back after a loss that is not finite.
        train_images: The images to train on.
        eval_images: The images to evaluate on.
        num_classes: The number of classes of the network and of the data.
        model_args: The arguments of the network that the flags set.
        extensions: What the flags of the callbacks ask for.
    """

    args: TrainSettings
    processes: Processes
    epochs: int
    rollbacks_allowed: int
    train_images: LabelledImages
    eval_images: LabelledImages
    num_classes: int
    model_args: Dict[str, Any]
    extensions: List[Extension]

    @property
    def output(self) -> Path:
        """The run directory."""
        return Path(self.args.output)

    @property
    def class_names(self) -> Optional[List[str]]:
        """The names of the classes, or None where the data does not name them."""
        return self.train_images.class_names

    @property
    def data_digests(self) -> Dict[str, str]:
        """The digests of the images to train and to evaluate on, which must be the same after a resume."""
        return dict(train=self.train_images.digest, eval=self.eval_images.digest)

    @property
    def unmeasured_classes(self) -> List[str]:
        """The classes, in order, that have images to train on and none to evaluate on."""
        found = sorted(set(self.train_images.targets()) - set(self.eval_images.targets()))
        return [str(i) if self.class_names is None else self.class_names[i] for i in found]


def make_plan(args: TrainSettings, device: torch.device, class_names: Optional[Sequence[str]] = None) -> Plan:
    """Check the flags, join the other processes, and open the images.

    Args:
        args: The flags.
        device: The device that the flags ask for.
        class_names: See ``train``.

    Raises:
        UsageError: The flags and the data do not fit.
        IEBNZooError: The images cannot be opened.
    """
    rollbacks_allowed, epochs = allowed_rollbacks(args.on_nan), training_epochs(args)
    check_opt_args(args)
    processes = start(device)
    check_sync_bn(args, processes)
    if args.in_chans is None:  # grey images are opened as such
        mode = image_mode(input_channels(args.model), args.model,
                          'Give --in-chans 3: the first layer is then adapted to it.')
        args = replace(args, in_chans=1) if mode == 'L' else args
    train_images, eval_images = open_splits(args, processes, class_names)
    for images in (train_images, eval_images):
        images.check_outside(args.output, '--output')
    num_classes = match_num_classes(args.num_classes, train_images.class_names)
    if num_classes is None:
        raise UsageError(f'{args.dataset} does not name its classes.\nGive --num-classes.')
    return Plan(
        args, processes, epochs, rollbacks_allowed, train_images, eval_images, num_classes,
        model_args(args, num_classes), create_extensions(argparse.Namespace(**args.flags())))
