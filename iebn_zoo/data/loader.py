"""From labelled images to batches: torch's DataLoader, timm's transforms, collation and prefetcher.

The order of an epoch depends on (seed, epoch) alone, and the augmentation of a batch on (seed, epoch, first image)
alone. The number of loader processes and their past do not matter: that makes a run repeatable, from any batch on.
(timm's create_loader seeds each process.) The seed is set once per batch: to seed three generators for each 32 px image
took longer than to decode it.
"""
import atexit
import signal
import sys
import weakref
from types import FrameType, TracebackType
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, cast

import torch
from PIL import Image
from timm.data.loader import PrefetchLoader, fast_collate
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from iebn_zoo._compat import shut_down_loader
from iebn_zoo.data.images import CorruptImageError, LabelledImages
from iebn_zoo.data.listing import some_of
from iebn_zoo.data.settings import AugmentationSettings, DataSettings
from iebn_zoo.data.transforms import make_transform
from iebn_zoo.util.device import give_back_freed_memory
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.seeded import draw_seed, seeded

CORRUPT = -1  # the target of an image that was skipped: evaluation does not count it


class SeededImages(Dataset):
    """Transformed images by batches; the random part of a batch's transforms is seeded by (seed, epoch, first index).

    Args:
        images: The source.
        transform: PIL image -> array or tensor.
        seed: The seed of the run.
        substitute: A corrupt image is replaced by the next readable one (training), or marked CORRUPT (evaluation);
            None raises. The process that finds a corrupt image names it on stderr, once for all loader processes of
            one training process.
        corrupt: (n,), bool, in memory that all loader processes share: the images that were found to be corrupt.
    """

    def __init__(
            self,
            images: LabelledImages,
            transform: Callable[[Image.Image], Any],
            seed: int = 0,
            substitute: Optional[bool] = None,
            corrupt: Optional[torch.Tensor] = None,
    ) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed
        self.substitute = substitute
        if corrupt is None and substitute is not None:
            corrupt = torch.zeros(len(images), dtype=torch.bool).share_memory_()
        self.corrupt = corrupt

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int) -> Tuple[Any, int]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: List[int]) -> List[Tuple[Any, int]]:
        """Read a batch; torch's DataLoader calls this where it is defined."""
        epoch, first = divmod(keys[0], len(self))  # as EpochSampler packs them
        # the augmentation in the main process must not change its dropout
        with seeded(self.seed, epoch, first, restore=get_worker_info() is None):
            batch = [self._read(key % len(self)) for key in keys]
            return [(self.transform(image), target) for image, target in batch]

    def skipped(self, found: Optional[Sequence[torch.Tensor]] = None) -> Optional[str]:
        """Say how many images were corrupt so far, and which classes have no others; None where no image was.

        Args:
            found: ``corrupt`` of every training process; by default that of this one.
        """
        if self.corrupt is None:
            return None
        corrupt = torch.stack(list(found or [self.corrupt])).any(0)
        if not corrupt.any():
            return None
        targets = self.images.targets()
        lost = sorted(set(targets) - {target for target, odd in zip(targets, corrupt.tolist(), strict=True) if not odd})
        names = [str(i) if self.images.class_names is None else self.images.class_names[i] for i in lost]
        classes = 'the class' if len(lost) == 1 else f'{len(lost)} classes:'
        among = f', among them all images of {classes} {some_of(names)}' if lost else ''
        return f'{int(corrupt.sum()):,} of {len(self):,} images cannot be decoded{among}'

    def _read(self, index: int) -> Tuple[Image.Image, int]:
        found = self._readable(index)
        if found is not None:
            return found
        if not self.substitute:
            return Image.new(self.images.mode, (32, 32)), CORRUPT
        for step in range(1, len(self)):
            found = self._readable((index + step) % len(self))
            if found is not None:
                return found
        raise CorruptImageError('every image of the dataset is corrupt.\nReplace the data.')

    def _readable(self, index: int) -> Optional[Tuple[Image.Image, int]]:
        try:
            return self.images.read(index)
        except CorruptImageError as e:
            if self.corrupt is None:
                raise e.with_flag() from e
            if not self.corrupt[index]:
                self.corrupt[index] = True
                print(f'skipped: {str(e).splitlines()[0]}', file=sys.stderr, flush=True)
        return None


class EpochSampler(Sampler):
    """The share of this process of the images, as keys that hold epoch and index.

    Training takes a permutation seeded by (seed, epoch), cut so that every process gets the same number. Evaluation
    takes each image exactly once over all processes.

    Repeated augmentation (Hoffer et al., arXiv 1901.09335; timm's RepeatAugSampler): each image of the permutation
    stands ``repeats`` times in a row before it is dealt over the processes. The epoch keeps its length, so it has one
    image in ``repeats``. Every copy has its own key, and so its own augmentation: the key of copy k in epoch e is that
    of epoch ``repeats * e + k``.
    """

    def __init__(
            self,
            length: int,
            shuffle: bool,
            seed: int = 0,
            rank: int = 0,
            world_size: int = 1,
            repeats: int = 1,
    ) -> None:
        self.length = length
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.repeats = repeats
        self.epoch = 0
        self.spans: Optional[Sequence[Tuple[int, int]]] = None

    def set_epoch(self, epoch: int, spans: Optional[Sequence[Tuple[int, int]]] = None) -> None:
        """Say which epoch to give, and which parts [begin, end) of this process's share of it; None for all."""
        self.epoch = epoch
        self.spans = spans

    def __iter__(self) -> Iterator[int]:
        order = torch.arange(self.length)
        if self.shuffle:
            seed = draw_seed(self.seed, self.epoch)
            order = torch.randperm(self.length, generator=torch.Generator().manual_seed(seed))
            copies = torch.arange(self.repeats).repeat(self.length)
            order = copies * self.length + order.repeat_interleave(self.repeats)
            order = order[:self.length // self.world_size * self.world_size]
        keys = (self.epoch * self.repeats * self.length + order[self.rank::self.world_size]).tolist()
        if self.spans is not None:
            keys = [key for begin, end in self.spans for key in keys[begin:end]]
        return iter(keys)

    def __len__(self) -> int:
        """Return the length of the whole share."""
        if self.shuffle:
            return self.length // self.world_size
        return len(range(self.rank, self.length, self.world_size))


class BatchLoader(PrefetchLoader):
    """timm's PrefetchLoader that can start at any batch, and whose random erasing depends on the batch alone.

    The prefetcher erases in a batch before the step on the previous batch begins: with the global generators a resumed
    run would differ.
    """

    def __init__(self, loader: DataLoader, seed: int, rank: int, **kwargs: Any) -> None:
        super().__init__(loader, **kwargs)
        self.steps: Sequence[int] = range(len(loader))
        if self.random_erasing is not None:
            self.random_erasing = _SeededErasing(self.random_erasing, seed, rank, self.device)

    def set_position(self, epoch: int, steps: Sequence[int]) -> None:
        """Give the batches ``steps`` (numbers from 0) of ``epoch`` in the next pass; the others are not decoded."""
        size = self.loader.batch_size or 1
        self.sampler.set_epoch(epoch, [(step * size, (step + 1) * size) for step in steps])
        self.steps = steps

    def close(self) -> None:
        """End the loader processes; the next pass starts new ones."""
        shut_down_loader(self.loader)

    @property
    def dataset(self) -> SeededImages:
        return cast(SeededImages, self.loader.dataset)

    @property
    def sampler(self) -> EpochSampler:
        return cast(EpochSampler, self.loader.sampler)

    def key_batches(self) -> List[List[int]]:
        """The keys of the next pass, by batches; see ``EpochSampler``."""
        return list(self.loader.batch_sampler or ())

    @property
    def batches_per_epoch(self) -> int:
        return len(self.loader)

    def __len__(self) -> int:
        """Return the number of batches of the next pass."""
        return len(self.steps)

    def __iter__(self) -> Iterator[Tuple[torch.Tensor, torch.Tensor]]:
        if self.random_erasing is not None:
            self.random_erasing.batches = iter([(self.sampler.epoch, step) for step in self.steps])
        return self._batches()

    def _batches(self) -> Iterator[Tuple[torch.Tensor, torch.Tensor]]:
        try:
            yield from super().__iter__()
        except Exception:
            # the traceback refers to the iterator and with it to its processes: they would live as long as the error is
            # kept, with a copy of every open file descriptor of this process
            self.close()
            raise


class _SeededErasing:
    def __init__(self, erasing: Any, seed: int, rank: int, device: torch.device) -> None:
        self.erasing = erasing
        self.seed = seed
        self.rank = rank
        self.cuda = device if device.type == 'cuda' else None
        self.batches: Iterator[Tuple[int, int]] = iter(())

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        with seeded(self.seed, *next(self.batches), self.rank, 1, cuda=self.cuda):
            return self.erasing(images)


def make_loader(
        images: LabelledImages,
        args: DataSettings,
        data_config: Dict[str, Any],
        device: torch.device,
        train: bool,
        rank: int = 0,
        world_size: int = 1,
) -> BatchLoader:
    """Make batches of normalized float32 images (B, C, H, W) and class indices (B,) on ``device``.

    Raises:
        UsageError: Fewer training images than one batch, or settings that make no transform.
    """
    if train and len(images) // world_size < args.batch_size:
        raise UsageError(
            f'{len(images)} training images make no batch of {args.batch_size} for each of {world_size} processes.\n'
            f'Use a smaller --batch-size.')
    augmentation = cast(AugmentationSettings, args) if train else None  # the flags of train have both
    transform = make_transform(augmentation, data_config)
    seed = getattr(args, 'seed', 0)
    repeats = max(1, augmentation.aug_repeats) if augmentation is not None else 1
    erased = 0. if augmentation is None or augmentation.no_aug else augmentation.reprob
    loader = DataLoader(
        SeededImages(images, transform, seed, train if args.skip_corrupt else None),
        batch_size=args.batch_size,
        sampler=EpochSampler(len(images), train, seed, rank, world_size, repeats),
        num_workers=args.workers,
        collate_fn=fast_collate,
        pin_memory=device.type == 'cuda',
        drop_last=train,
        worker_init_fn=_start_worker,
        persistent_workers=args.workers > 0,
        generator=torch.Generator().manual_seed(seed),  # else each epoch would draw from the global generator
    )
    made = BatchLoader(
        loader, seed, rank, mean=data_config['mean'], std=data_config['std'], channels=data_config['input_size'][0],
        device=device, re_prob=erased, re_mode='pixel')
    if args.workers:
        atexit.register(_close, weakref.ref(made.loader))
    return made


def _close(loader: 'weakref.ref[DataLoader]') -> None:
    # A loader that something still refers to when the interpreter ends: multiprocessing sends its processes one
    # SIGTERM, which they do not obey (see _start_worker), and would wait for them for ever.
    kept = loader()
    if kept is not None:
        shut_down_loader(kept)


def _start_worker(worker_id: int) -> None:
    torch.set_num_threads(1)
    give_back_freed_memory()
    # A terminal or a scheduler signals all processes of a run. The run ends its update first, and needs its loaders for
    # that: they end when it does. A loader that hangs ends at the second SIGTERM.
    for name in ('SIGINT', 'SIGHUP', 'SIGUSR1'):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)
    sys.excepthook = _report_all_but_the_end_of_the_run


def _report_all_but_the_end_of_the_run(
        kind: type[BaseException], error: BaseException, trace: Optional[TracebackType]) -> None:
    # multiprocessing reports here what goes wrong in its thread that hands batches over. A connection that the run
    # closes midway is no news: the run is ending, and says itself why.
    if not isinstance(error, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)


def _ignore_once(number: int, frame: Optional[FrameType]) -> None:
    signal.signal(number, signal.SIG_DFL)
