"""Transforms: how training and evaluation prepare a decoded image."""
from typing import Any, Callable, Dict, Optional, Sequence, Tuple, Union

from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms

from iebn_zoo.data.crop_and_flip import CropAndFlip
from iebn_zoo.data.settings import AugmentationSettings
from iebn_zoo.util.errors import UsageError

Transform = Callable[[Image.Image], Any]

_PAD_CROP_UP_TO = 64
_EVAL_KEYS = ('interpolation', 'mean', 'std', 'crop_pct', 'crop_mode')


def make_transform(args: Optional[AugmentationSettings], data_config: Dict[str, Any]) -> Transform:
    """Make timm's transform by the flags; images become uint8 tensors (C, H, W).

    Args:
        args: The augmentation of training; None for evaluation.
        data_config: ``input_size`` and timm's settings of evaluation.

    Raises:
        UsageError: The settings make no transform.
    """
    try:
        return eval_transform(data_config) if args is None else train_transform(args, data_config)
    except (AssertionError, ValueError, KeyError, IndexError, TypeError, AttributeError) as e:
        first = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise UsageError(f'the image settings cannot be used: {first}\n'
                         f"Expected timm's, such as --aa rand-m9-mstd0.5 (given: {getattr(args, 'aa', None)}).") from e


def eval_transform(data_config: Dict[str, Any]) -> transforms.Compose:
    """Make timm's transform for evaluation, which resizes and crops as ``crop_mode`` and ``crop_pct`` say."""
    made = create_transform(
        data_config['input_size'], use_prefetcher=True, **{k: data_config[k] for k in _EVAL_KEYS if k in data_config})
    assert isinstance(made, transforms.Compose)
    return made


def train_transform(args: AugmentationSettings, data_config: Dict[str, Any]) -> transforms.Compose:
    """Make the augmentation by the flags.

    Crop mode ``pad`` is the default up to 64 px. It resizes and crops the image as evaluation does, so that both see
    the same scale and aspect; then it pads by ``--crop-padding`` and crops at random. Without augmentation the image is
    the one that evaluation sees. The other crop modes are timm's.
    """
    size = data_config['input_size'][-2:]
    mode, jitter = _crop_mode(args, size), _color_jitter(args, size)
    interpolation = _train_interpolation(args, data_config)
    kwargs: Dict[str, Any] = dict(
        is_training=True, hflip=args.hflip, vflip=args.vflip, color_jitter=jitter or None, auto_augment=args.aa,
        scale=args.scale, ratio=args.ratio, interpolation=interpolation,
        mean=data_config['mean'], std=data_config['std'], use_prefetcher=True)
    if args.no_aug:
        return eval_transform(data_config)
    if mode != 'pad':
        made = create_transform(size, train_crop_mode=mode, **kwargs)
        assert isinstance(made, transforms.Compose)
        return made
    parts = create_transform(size, separate=True, **kwargs)
    assert isinstance(parts, tuple)
    _, secondary, final = parts
    as_evaluated = _geometry(data_config, interpolation).transforms[:-1]  # without the last step, which makes a tensor
    primary = [*as_evaluated, transforms.RandomCrop(size, padding=args.crop_padding)]
    if args.hflip > 0:
        primary.append(transforms.RandomHorizontalFlip(args.hflip))
    if args.vflip > 0:
        primary.append(transforms.RandomVerticalFlip(args.vflip))
    return transforms.Compose([*primary, secondary, final])


def batch_transform(
        args: Optional[AugmentationSettings], data_config: Dict[str, Any],
) -> Union[Tuple[Transform, CropAndFlip], str]:
    """Make the transform of ``make_transform`` in two parts; the first is the same in every epoch.

    Returns:
        (PIL image -> uint8 tensor (C, H, W), the crops and flips of a batch), which together give the same pixels as
        ``make_transform``; or the reason why there is no such pair.

    Raises:
        UsageError: The settings make no transform.
    """
    whole = make_transform(args, data_config)
    height, width = data_config['input_size'][-2:]
    if args is None or args.no_aug:
        return whole, CropAndFlip((height, width))
    if _crop_mode(args, (height, width)) != 'pad':
        return f'--train-crop-mode {_crop_mode(args, (height, width))} resizes each image at random'
    if args.aa:
        return f'--aa {args.aa} changes each image on its own'
    if _color_jitter(args, (height, width)):
        return f'--color-jitter {args.color_jitter} changes each image on its own'
    fixed = _geometry(data_config, _train_interpolation(args, data_config))
    return fixed, CropAndFlip((height, width), args.crop_padding, args.hflip, args.vflip)


def crop_mode(chosen: Optional[str], size: Sequence[int]) -> str:
    """Return the crop mode of a training.

    Args:
        chosen: ``--train-crop-mode``, or None.
        size: Height and width of the images in pixels, on which the default depends.
    """
    return chosen or ('pad' if max(size) <= _PAD_CROP_UP_TO else 'rrc')


def _crop_mode(args: AugmentationSettings, size: Sequence[int]) -> str:
    return crop_mode(args.train_crop_mode, size)


def _color_jitter(args: AugmentationSettings, size: Sequence[int]) -> float:
    return args.color_jitter if args.color_jitter is not None else (0. if _crop_mode(args, size) == 'pad' else 0.4)


def _train_interpolation(args: AugmentationSettings, data_config: Dict[str, Any]) -> str:
    return args.train_interpolation or data_config['interpolation']


def _geometry(data_config: Dict[str, Any], interpolation: str) -> transforms.Compose:
    # timm's evaluation; "random" is of timm's training transforms alone
    fixed = data_config['interpolation'] if interpolation == 'random' else interpolation
    return eval_transform(dict(data_config, interpolation=fixed))
