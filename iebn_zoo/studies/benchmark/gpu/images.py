"""Random images in the form of CIFAR-100, for an epoch of training without a data set."""
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

SIZE, CLASSES = 32, 100


def write_random_images(directory: Path, train: int, val: int, classes: int = CLASSES, seed: int = 42) -> Path:
    """Write ``train.tar`` and ``val.tar``: PNG images of noise in a folder per class.

    Args:
        directory: Directory to make.
        train: Number of training images, at least ``classes``.
        val: Number of evaluation images, at least ``classes``.
        classes: Number of classes.
        seed: Of the noise.

    Returns:
        ``directory``, what ``train --data-dir`` takes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for name, count in (('train', train), ('val', val)):
        with tarfile.open(directory / f'{name}.tar', 'w') as tar:
            for i in range(count):
                pixels = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, 'PNG', compress_level=1)
                info = tarfile.TarInfo(f'class{i % classes:03d}/{i:05d}.png')
                info.size = png.tell()
                png.seek(0)
                tar.addfile(info, png)
    return directory
