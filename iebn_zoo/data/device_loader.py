"""All images of a split in the memory of the training device: loader processes are slower than a GPU at 32 px.

The batches have the bits that ``BatchLoader`` gives: same order, same crops and flips, same normalization. Where that
is impossible, ``device_loader`` says why, and the loader goes on preparing the images.
"""
from typing import Any, Callable, Dict, Iterable, Iterator, Optional, Tuple, Union

import torch
from timm.data.loader import fast_collate
from torch.utils.data import DataLoader

from iebn_zoo._compat import shut_down_iterator
from iebn_zoo.data.crop_and_flip import CropAndFlip, draw_batches
from iebn_zoo.data.loader import BatchLoader, SeededImages
from iebn_zoo.data.settings import AugmentationSettings
from iebn_zoo.data.transforms import batch_transform
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.seeded import draw_seed

_AUTOMATIC = 2 ** 30  # bytes of a split that go there when the user does not ask
_SHARE = 4  # a split takes at most a quarter of the free memory of a GPU
_READ = 256  # images that are read at once
_CHECKED = 16  # images that are compared with the loader's before the first epoch


class DeviceLoader(BatchLoader):
    """``BatchLoader`` whose images are read once; crops, flips and normalization are made on the device.

    Args:
        loader: The loader whose place this one takes. It gives its settings, order and random erasing.
        images: (n, C, H, W), uint8, on the device.
        targets: (n,), int64, on the device.
        transform: What is drawn for each batch.
    """

    def __init__(
            self, loader: BatchLoader, images: torch.Tensor, targets: torch.Tensor, transform: CropAndFlip,
    ) -> None:
        # not through the parent's constructor: everything is there already
        self.__dict__.update(vars(loader))
        self.images, self.targets, self.transform = images, targets, transform

    def uint8_batches(self) -> Iterator[Tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches of the next pass: images (B, C, H, W) before normalization, and targets (B,)."""
        count = len(self.targets)
        batches = self.key_batches()
        sizes = [len(keys) for keys in batches]
        seeds = [draw_seed(self.dataset.seed, *divmod(keys[0], count)) for keys in batches]
        # one transfer for the whole pass: many small ones would make the GPU wait for each
        drawn = draw_batches(self.transform, sizes, seeds).to(self.device)
        order = torch.tensor([key % count for keys in batches for key in keys], dtype=torch.int64).to(self.device)
        for index, draws in zip(order.split(sizes), drawn.split(sizes), strict=True):
            yield self.transform.apply(self.images[index], draws), self.targets[index]

    def _batches(self) -> Iterator[Tuple[torch.Tensor, torch.Tensor]]:
        for images, targets in self.uint8_batches():
            images = images.to(self.img_dtype).sub_(self.mean).div_(self.std)
            if self.random_erasing is not None:
                images = self.random_erasing(images)
            yield images, targets


def _plain(items: Iterable, title: str) -> Iterable:
    return items


def device_loader(
        loader: BatchLoader,
        args: Optional[AugmentationSettings],
        data_config: Dict[str, Any],
        asked: Optional[bool] = None,
        progress: Callable[[Iterable, str], Iterable] = _plain,
) -> Union[DeviceLoader, str]:
    """Read the images of ``loader`` into the memory of its device.

    Args:
        loader: What ``make_loader`` returned.
        args: The augmentation that the loader was made with; None for evaluation.
        data_config: ``input_size`` and timm's settings of evaluation.
        asked: True, False, or None for images that are at most 1 GiB and a quarter of a GPU's free memory.
        progress: (items, title) -> the same items; shows them to the user while they are read.

    Returns:
        The loader to use, or the reason why ``loader`` must prepare the images.

    Raises:
        UsageError: The images do not fit into memory.
        IEBNZooError: An image cannot be read.
    """
    if asked is False:
        return '--no-device-data'
    parts = batch_transform(args, data_config)
    if isinstance(parts, str):
        return parts
    fixed, transform = parts
    dataset = loader.dataset
    shape = (len(dataset), *data_config['input_size'])
    size = torch.Size(shape).numel()
    if asked is None and size > _automatic_limit(loader.device):
        return f'the images take {size / 1e9:.1f} GB'
    try:
        made = DeviceLoader(loader, *_read(loader, shape, fixed, progress), transform)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as e:
        if not isinstance(e, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in str(e):
            raise
        raise UsageError(f'--device-data: {len(dataset):,} images take {size / 1e9:.1f} GB, and {loader.device} has '
                         f'not as much memory.\nUse --no-device-data.') from e
    return made if _agree(made, loader) else 'this version of torchvision draws its crops in another way'


def _automatic_limit(device: torch.device) -> float:
    if device.type != 'cuda':
        return _AUTOMATIC
    return min(_AUTOMATIC, torch.cuda.mem_get_info(device)[0] / _SHARE)


def _read(
        loader: BatchLoader, shape: Tuple[int, ...], fixed: Any, progress: Callable[[Iterable, str], Iterable],
) -> Tuple[torch.Tensor, torch.Tensor]:
    dataset = loader.dataset
    images = torch.empty(shape, dtype=torch.uint8, device=loader.device)
    targets = torch.empty(shape[0], dtype=torch.int64, device=loader.device)
    reader = DataLoader(
        SeededImages(dataset.images, fixed, dataset.seed, dataset.substitute, dataset.corrupt), batch_size=_READ,
        num_workers=loader.loader.num_workers, collate_fn=fast_collate, worker_init_fn=loader.loader.worker_init_fn,
        generator=torch.Generator())
    done, batches = 0, iter(reader)
    try:
        for batch, classes in progress(batches, 'reading the images'):
            images[done:done + len(batch)] = batch.to(loader.device)
            targets[done:done + len(batch)] = classes.to(loader.device)
            done += len(batch)
    except Exception:
        shut_down_iterator(batches)
        raise
    return images, targets


def _agree(made: DeviceLoader, loader: BatchLoader) -> bool:
    """Say whether the first images of the first epoch have the pixels that the loader gives them."""
    keys = next(iter(loader.key_batches()), None)
    if keys is None:
        return True
    expected, _ = fast_collate(loader.dataset.__getitems__(keys[:_CHECKED]))
    images, _ = next(made.uint8_batches())
    return torch.equal(images[:_CHECKED].cpu(), expected)
