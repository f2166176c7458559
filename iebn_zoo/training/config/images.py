"""The images of a run: those to train on and those to evaluate on, also when the run is over."""
import reprlib
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, TypeVar, Union

from iebn_zoo.data.formats import image_mode
from iebn_zoo.data.holdout import held_out_split
from iebn_zoo.data.images import TRAIN_NAMES, LabelledImages, open_images
from iebn_zoo.training.config.limits import LIMITS
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.processes import Processes

Splits = Tuple[LabelledImages, LabelledImages]
_T = TypeVar('_T')


def open_splits(
        args: TrainSettings, processes: Processes, class_names: Optional[Sequence[str]] = None) -> Splits:
    """Open the images to train on and those to evaluate on, by the flags, see ``open_in_turns``.

    Args:
        args: The flags.
        processes: This process among the others.
        class_names: See ``open_images``.

    Raises:
        UsageError: The flags and the data do not fit.
        IEBNZooError: The data cannot be opened. Every process raises it where one fails to download.
    """
    return open_in_turns(lambda download: _open(args, download, class_names), args.dataset_download, processes)


def open_in_turns(opened: Callable[[bool], _T], download: bool, processes: Processes) -> _T:
    """Open images in every process, so that no two of them write into one directory at the same time.

    With ``download`` the first process opens them first, then the first process of each other machine, then the rest,
    which do not download.

    Args:
        opened: Opens them; takes whether to download.
        download: Whether the user allows it (``--dataset-download``).
        processes: This process among the others.

    Raises:
        IEBNZooError: They cannot be opened. Every process raises it where one fails to download.
    """
    if not (download and processes.many):
        return opened(download)
    found: List[_T] = []
    mine = 0 if processes.first else 1 if processes.local_rank == 0 else 2
    for turn in range(3):
        error: Any = None
        if mine == turn:
            try:
                found.append(opened(turn < 2))
            except IEBNZooError as e:
                error = e
        failed = next((e for e in processes.gather(error) if e is not None), None)
        if failed is not None:
            raise error or failed
    return found[0]


def recorded_holdout(
        recorded: Any, place: Union[str, Path], train_split: Optional[str] = None) -> Optional[Tuple[float, int]]:
    """Return the share and the seed by which a training held images out, or None if it held out none.

    Args:
        recorded: The flags of the training by name, as args.yaml or a checkpoint has them; any value is taken.
        place: Where they come from, for messages.
        train_split: The training split that the user names now. The user has to name the recorded one: a file is not
            to choose a place on this machine.

    Raises:
        UsageError: A value is impossible, or the training held images out of another split than ``train_split``.
    """
    if not isinstance(recorded, Mapping) or recorded.get('holdout') is None:
        return None
    share, seed, split = (recorded.get(name) for name in ('holdout', 'seed', 'train_split'))
    # type: True and False are ints too
    if not (type(share) is float and share in LIMITS['holdout'] and type(seed) is int and seed in LIMITS['seed']):
        raise UsageError(f'{place}: holdout is {reprlib.repr(share)} and seed {reprlib.repr(seed)}.\n'
                         f'Expected a share {LIMITS["holdout"]}, and a whole number {LIMITS["seed"]}.')
    if split != train_split and not {split, train_split} <= {None, *TRAIN_NAMES}:  # with None one of these is taken
        usual, given = 'the usual training split', f'--train-split {train_split}'
        raise UsageError(
            f'{place}: the training held images out of {usual if split is None else reprlib.repr(split)}, not of '
            f'{usual if train_split is None else given}.\n'
            f'{"Leave --train-split out" if split is None else "Give --train-split as in the training"}, or name the '
            f'images to measure on by --val-split.')
    return share, seed


def _open(args: TrainSettings, download: bool, class_names: Optional[Sequence[str]]) -> Splits:
    source: Dict[str, Any] = dict(
        name=args.dataset, root=args.data_dir, download=download, mode=image_mode(args.in_chans or 3, args.model))
    train_images = open_images(
        train=True, split=args.train_split, whole=args.holdout is not None, class_names=class_names, **source)
    if args.holdout is None:
        names = train_images.class_names
        return train_images, open_images(train=False, split=args.val_split, class_names=names, **source)
    if args.val_split is not None:
        raise UsageError(f'--holdout and --val-split {args.val_split} contradict: both say what to evaluate on.\n'
                         f'Give one of them.')
    return held_out_split(train_images, args.holdout, args.seed)
