"""Datasets of the Hugging Face Hub, here from files in their format on this machine."""
import datasets
import numpy as np
import pytest
from PIL import Image

from iebn_zoo.commands.train import main as train
from iebn_zoo.data.images import open_images
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.training.datasets import flags
from tests.training.kill_and_resume import compare_runs

NAMES = ['zebra', 'ant', 'bee']  # in an order of their own


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp('hub')
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=NAMES))
    for split, count in (('train', 24), ('test', 9)):
        pixels = [np.full((16, 16, 3), 40 + 70 * (i % 3), np.uint8) for i in range(count)]
        rows = dict(image=[Image.fromarray(p) for p in pixels], label=[i % 3 for i in range(count)])
        datasets.Dataset.from_dict(rows, features=features).to_parquet(root / f'{split}-00000-of-00001.parquet')
    return root


def test_images_names_and_splits(hub, tmp_path):
    name = f'hfds/{hub}'
    images = open_images(name, str(tmp_path), True)
    assert images.class_names == NAMES and len(images) == 24 and images.targets()[:4] == [0, 1, 2, 0]
    image, target = images.read(4)
    assert (image.mode, image.size, target, image.getpixel((0, 0))) == ('RGB', (16, 16), 1, (110, 110, 110))
    assert len(open_images(name, str(tmp_path), False)) == 9  # test, as there is no validation
    assert open_images(name, str(tmp_path), True).digest == images.digest
    assert open_images(name, str(tmp_path), False).digest != images.digest
    with pytest.raises(UsageError, match='has no split to train on.*\n.*--train-split'):
        open_images(name, str(tmp_path), True, split='nothing')


def test_what_is_not_there_is_a_message_and_nothing_is_downloaded(tmp_path):
    with pytest.raises(IEBNZooError, match='cannot open hfds/nobody/nothing.*\n.*--dataset-download'):
        open_images('hfds/nobody/nothing', str(tmp_path), True)
    assert not datasets.config.HF_HUB_OFFLINE


def test_a_run_resumes_with_the_same_bits(hub, tmp_path):
    more = ('--dataset', f'hfds/{hub}', '--model-kwargs', 'layers=(1,1,1)', '--img-size', '16', '--batch-size', '8',
            '--model-ema')
    runs = [tmp_path / name for name in ('whole', 'resumed')]
    for run in runs:
        train(flags(tmp_path, run, *more))
    (runs[1] / 'checkpoint-0.pth.tar').replace(runs[1] / LAST)
    train(flags(tmp_path, runs[1], *more, '--resume', '-j', '1', '--no-device-data'))
    assert compare_runs(*runs) == [] and load_checkpoint(runs[0] / LAST)['label_names'] == NAMES
