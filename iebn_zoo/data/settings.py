"""What the flags say of the images: which they are, how they are prepared, and how training augments them.

The fields have the names of the flags, which are timm's; ``--help`` says what each means.
"""
import argparse
from dataclasses import dataclass, fields
from typing import Any, List, Optional, Type, TypeVar

S = TypeVar('S')


def settings_of(kind: Type[S], flags: argparse.Namespace) -> S:
    """The fields of the dataclass ``kind`` from parsed flags of the same names."""
    named: Any = kind  # a dataclass, which typing has no word for on Python 3.10
    return kind(**{field.name: getattr(flags, field.name) for field in fields(named)})


@dataclass
class DataSettings:
    """The flags of the group ``data``."""

    data_dir: Optional[str]
    dataset: str
    dataset_download: bool
    val_split: Optional[str]
    num_classes: Optional[int]
    in_chans: Optional[int]
    img_size: Optional[int]
    input_size: Optional[List[int]]
    mean: Optional[List[float]]
    std: Optional[List[float]]
    interpolation: Optional[str]
    crop_pct: Optional[float]
    batch_size: int
    workers: int
    skip_corrupt: bool


@dataclass
class AugmentationSettings:
    """The flags of the group ``augmentation and loss``."""

    no_aug: bool
    aug_repeats: int
    train_crop_mode: Optional[str]
    crop_padding: int
    train_interpolation: Optional[str]
    scale: Optional[List[float]]
    ratio: Optional[List[float]]
    hflip: float
    vflip: float
    color_jitter: Optional[float]
    aa: Optional[str]
    reprob: float
    mixup: float
    cutmix: float
    mixup_prob: float
    mixup_switch_prob: float
    smoothing: float
    bce_loss: bool
    bce_target_thresh: Optional[float]
    bce_sum: bool
