"""The images of the second dataset: which, how prepared, and that nothing else notices."""
import numpy as np
import pytest
import torch
from PIL import Image

from iebn_zoo.data.images import open_images
from iebn_zoo.data.loader import make_loader
from iebn_zoo.studies.noise.mixing import CompanionImages, StepSampler, open_companions
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.training.datasets import write_fashion_mnist

CONFIG = dict(input_size=(3, 32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), interpolation='bilinear',
              crop_pct=1.0, crop_mode='center')


@pytest.fixture
def companions(image_folder, grey_folder, data_args):
    def make(*flags, number=4, rank=0):
        first = open_images('', str(image_folder), True)
        loader = make_loader(first, data_args(*flags), CONFIG, torch.device('cpu'), train=True)
        return CompanionImages(open_companions(str(grey_folder), first), number, loader, CONFIG, rank)
    return make


def test_a_resumed_run_draws_the_same(companions):
    source = companions()
    drawn = [source.at(epoch, step) for epoch in (0, 1) for step in range(4)]
    resumed = companions()
    assert torch.equal(resumed.at(1, 2), drawn[6]) and torch.equal(resumed.at(1, 3), drawn[7])
    assert torch.equal(source.at(0, 1), drawn[1])  # back again
    assert len({d.sum().item() for d in drawn}) == 8


def test_loader_processes_change_nothing(companions):
    alone, process = companions(), companions('-j', '1')
    for epoch, step in ((0, 0), (0, 1), (1, 0)):
        assert torch.equal(alone.at(epoch, step), process.at(epoch, step))


def test_each_process_and_each_seed_draws_its_own():
    steps = [StepSampler(1000, 8, seed, rank).keys(0, 0) for seed, rank in ((1, 0), (1, 1), (2, 0))]
    assert len({tuple(keys) for keys in steps}) == 3
    assert len(set(steps[0])) == 8


def test_prepared_as_the_training_images_are(companions, grey_folder):
    images = companions('--no-aug', '--reprob', '1', number=10).at(0, 0)
    assert images.shape == (10, 3, 32, 32) and images.dtype == torch.float32
    mean, std = (torch.tensor(CONFIG[k])[:, None, None] for k in ('mean', 'std'))
    pixels = (images * std + mean) * 255
    # grey: the channels differ by their mean and std alone; resized, so of the file's range and mean at most
    assert all(torch.allclose(pixels[:, 0], pixels[:, c], atol=1e-2) for c in (1, 2))
    files = [np.asarray(Image.open(f), dtype=float).mean() for f in grey_folder.rglob('*.png')]
    assert sorted(pixels.mean((1, 2, 3)).tolist()) == pytest.approx(sorted(files), abs=15)


def test_the_generators_are_left_as_they_were(companions):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    companions('--reprob', '1').at(3, 5)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])


def test_too_few_images_or_none(companions, tmp_path, image_folder):
    with pytest.raises(UsageError, match='--mix-count is 11, expected 1 to 10'):
        companions(number=11)
    with pytest.raises(UsageError, match='--mix-count is 0'):
        companions(number=0)
    first = open_images('', str(image_folder), True)
    with pytest.raises(UsageError, match='no such directory.*\n.*--mix-dataset'):
        open_companions(str(tmp_path / 'none'), first)


def test_a_named_dataset(tmp_path, image_folder):
    first = open_images('', str(image_folder), True)
    pixels = write_fashion_mnist(tmp_path)
    images = open_companions(str(tmp_path), first, 'torch/fashion_mnist')
    assert len(images) == len(pixels) and images.mode == 'RGB'
    assert np.array_equal(np.asarray(images.read(2)[0])[..., 1], pixels[2])
    with pytest.raises(UsageError, match="unknown --mix-dataset-name 'torch/no_such'"):
        open_companions(str(tmp_path), first, 'torch/no_such')
    with pytest.raises(IEBNZooError) as error:
        open_companions(str(tmp_path / 'none'), first, 'torch/fashion_mnist')
    assert '--mix-dataset' in str(error.value) and '--data-dir' not in str(error.value)
