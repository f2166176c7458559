"""Small real image datasets on disk: noise whose mean colour tells the class."""
import signal
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ('ant', 'bee', 'cat')


def write_folder(root: Path, train: int = 16, test: int = 7, size: int = 32, classes=CLASSES, test_name='test') -> Path:
    rng = np.random.default_rng(0)
    for split, count in (('train', train), (test_name, test)):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (size, size, 3)) + 40 * np.eye(3, dtype=int)[label % 3] * (2 + label // 3)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f'{name}_{i:03d}.png')
    return root


def tar_splits(folder: Path, root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for split in ('train', 'test'):
        with tarfile.open(root / f'{split}.tar', 'w') as tar:
            for path in sorted((folder / split).rglob('*.png')):
                tar.add(path, arcname=str(path.relative_to(folder / split)))
    return root


def flags(data: Path, output: Path, *more: str) -> list:
    return ['--model', 'iebn_resnet20_cifar', '--data-dir', str(data), '--output', str(output), '--epochs', '2',
            '--batch-size', '16', '-j', '0', '--lr', '0.05', '--device', 'cpu', *more]


def interruptible() -> None:
    """For ``subprocess.Popen(preexec_fn=)``: a shell makes what it starts in the background ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def write_fashion_mnist(root, train=20, test=6):
    """Write files as torchvision's FashionMNIST has them, with random pixels; returns those to train on, (N, 28, 28).

    torchvision has no checksum for the unpacked files of this dataset.
    """
    raw, rng = Path(root) / 'FashionMNIST' / 'raw', np.random.default_rng(0)
    raw.mkdir(parents=True)
    pixels = {'train': train, 't10k': test}
    for prefix, n in pixels.items():
        pixels[prefix] = rng.integers(256, size=(n, 28, 28), dtype=np.uint8)
        head = bytes([0, 0, 8, 3]) + b''.join(v.to_bytes(4, 'big') for v in (n, 28, 28))
        (raw / f'{prefix}-images-idx3-ubyte').write_bytes(head + pixels[prefix].tobytes())
        labels = bytes(i % 10 for i in range(n))
        (raw / f'{prefix}-labels-idx1-ubyte').write_bytes(bytes([0, 0, 8, 1]) + n.to_bytes(4, 'big') + labels)
    return pixels['train']
