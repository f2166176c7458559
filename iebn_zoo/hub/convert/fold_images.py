"""The images of a fold: the gates are averaged over training images, and the networks are compared on others."""
import argparse
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

import torch
from torch import Tensor

from iebn_zoo.data.formats import image_mode
from iebn_zoo.data.holdout import held_out_split
from iebn_zoo.data.images import ImageSubset, LabelledImages, open_images
from iebn_zoo.data.loader import make_loader
from iebn_zoo.data.named import is_folder
from iebn_zoo.data.settings import DataSettings, settings_of
from iebn_zoo.hub.card.run_facts import read_args
from iebn_zoo.hub.package.source import Source
from iebn_zoo.training.config.images import recorded_holdout
from iebn_zoo.training.config.model import match_num_classes
from iebn_zoo.training.run.records import ARGS
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.places import NAMED_DATASET, local_name
from iebn_zoo.util.progress import Progress

_SEED = 0  # the choice of images is the same each time, so that a fold can be repeated


class ChosenImages(ImageSubset):
    """Some images of a source, drawn from all of it, because folders are sorted by class.

    Args:
        images: The source.
        count: Number of images; None takes all, and so does a number that is larger than the source.
    """

    def __init__(self, images: LabelledImages, count: Optional[int]) -> None:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SEED))
        super().__init__(images, sorted(order[:count].tolist()))


class Batches:
    """Batches of a loader, without the images that could not be decoded; each pass shows its progress.

    Args:
        loader: Batches of (images, targets); the target is -1 where the loader skipped an image.
        title: What the progress calls a pass.
    """

    def __init__(self, loader: Any, title: str) -> None:
        self.loader = loader
        self.title = title

    def __iter__(self) -> Iterator[Tuple[Tensor, Tensor]]:
        for images, targets in Progress(self.loader, self.title):
            readable = targets >= 0
            yield images[readable], targets[readable]


def holdout_of(source: Source, args: argparse.Namespace) -> Optional[Tuple[float, int]]:
    """Return the share and the seed by which the training run of ``source`` held images out, if it did and no other
    split is asked for.

    Args:
        source: The network.
        args: ``train_split`` and ``val_split``.

    Raises:
        UsageError: args.yaml of the run holds an impossible value, or the run held images out of another split.
    """
    if source.run is None or args.val_split is not None:
        return None
    return recorded_holdout(read_args(source.run, source.checkpoint), source.run / ARGS, args.train_split)


def open_fold_images(
        args: argparse.Namespace, source: Source, device: torch.device,
) -> Tuple[Batches, Batches, Dict[str, Any]]:
    """Open calibration images of the training split and held-out images of the evaluation split.

    Both are prepared as evaluation prepares the images of the network. Where the run of the network held images out of
    the training split, the held-out images are those.

    Args:
        args: ``calibration_images``, ``held_out_images``, ``train_split`` and the flags of ``add_data_arguments``.
        source: The network.
        device: The device that receives the batches.

    Returns:
        Calibration batches, held-out batches, and what a report says of them.

    Raises:
        UsageError: There is no such data, or it has other classes than the network, or the network takes images of
            another number of channels than 1 or 3.
    """
    mode = image_mode(source.data_config['input_size'][0], source.shown)
    opened = dict(name=args.dataset, root=args.data_dir, download=args.dataset_download, mode=mode)
    holdout = holdout_of(source, args)
    train = open_images(train=True, split=args.train_split, class_names=source.label_names,
                        whole=holdout is not None, **opened)
    match_num_classes(
        getattr(source.model, 'num_classes', None), train.class_names, f'--data-dir {args.data_dir}')
    _warn_of_other_names(source.label_names, train.class_names)
    if holdout is None:
        held_out = open_images(train=False, split=args.val_split, class_names=train.class_names, **opened)
    else:
        train, held_out = held_out_split(train, *holdout)
    if not len(train) or not len(held_out):
        raise UsageError(f'--data-dir {args.data_dir} has no images in one of its splits.\nExpected some in both.')
    if holdout is None and _place(train) == _place(held_out):
        raise UsageError(f'the images of both splits of --data-dir {args.data_dir} are the same, so none would be held '
                         f'out.\nGive --val-split another split than that of the training.')
    settings = settings_of(DataSettings, args)
    chosen = [ChosenImages(train, args.calibration_images), ChosenImages(held_out, args.held_out_images)]
    batches = [Batches(make_loader(images, settings, source.data_config, device, train=False), title)
               for images, title in zip(chosen, ('gates', 'comparison'), strict=True)]
    folder = is_folder(args.dataset)
    named = NAMED_DATASET.fullmatch(args.dataset) and not folder  # else it may be a place on this machine
    usual = 'validation' if folder else 'test'
    other = 'held out of the training' if holdout is not None else local_name(args.val_split or '')
    data = dict(dataset=args.dataset if named else 'an image folder',
                calibration_split=local_name(args.train_split or 'train'), held_out_split=other or usual,
                calibration_available=len(train), held_out_available=len(held_out))
    return batches[0], batches[1], data


def _place(images: LabelledImages) -> Union[Path, str]:
    # a folder or a tar; numbered files of one size would give two splits the same digest
    place = getattr(images.source, 'root', None) or getattr(images.source, 'path', None)
    return Path(place).resolve() if place is not None else images.digest


def _warn_of_other_names(own: Optional[List[str]], found: Optional[List[str]]) -> None:
    if own and found and own != found:
        odd = next((a, b) for a, b in zip(own, found, strict=True) if a != b)
        print(f'warning: the model calls a class {odd[0]!r} that the data calls {odd[1]!r}; '
              f'they count as the same class', file=sys.stderr)
