"""A second dataset of another distribution: grey, of another size, with classes of its own."""
import numpy as np
import pytest
from PIL import Image

from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.settings import TrainSettings


@pytest.fixture(scope='session')
def grey_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('grey')
    rng = np.random.default_rng(1)
    for name in ('x', 'y'):
        folder = root / 'train' / name
        folder.mkdir(parents=True)
        for i in range(5):
            Image.fromarray(rng.integers(0, 255, (8, 12), dtype=np.uint8)).save(folder / f'{i}.png')
    return root


@pytest.fixture
def data_args():
    """Makes the flags that loaders read; 16 images a batch, no loader processes."""
    return lambda *more: TrainSettings.from_flags(train_parser().parse_args(['--batch-size', '16', '-j', '0', *more]))
