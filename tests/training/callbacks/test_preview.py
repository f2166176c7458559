"""The picture of the first batch against the batch itself."""
import numpy as np
import pytest
from PIL import Image

from iebn_zoo.commands.train import main as train
from iebn_zoo.training.callbacks.preview import PICTURE
from tests.support.training.datasets import flags
from tests.training.kill_and_resume import compare_runs

MORE = ('--model-kwargs', 'layers=(1,1,1)', '--model-ema')


def sheet(run):
    with Image.open(run / PICTURE) as image:
        return np.asarray(image)


@pytest.mark.parametrize('more', [(), ('--mixup', '0.5', '--no-device-data', '-j', '1')], ids=['plain', 'mixed'])
def test_it_shows_the_first_batch_and_changes_nothing(image_folder, tmp_path, more):
    runs = [tmp_path / name for name in ('with', 'without')]
    train(flags(image_folder, runs[0], *MORE, *more, '--preview'))
    train(flags(image_folder, runs[1], *MORE, *more))
    assert compare_runs(*runs) == [] and not (runs[1] / PICTURE).exists()
    assert sheet(runs[0]).shape == (3 * (200 + 12 + 17 * (2 if more else 1)) + 12, 6 * 212 + 12, 3)
    before = (runs[0] / PICTURE).stat().st_mtime_ns
    train(flags(image_folder, runs[0], *MORE, *more, '--preview', '--epochs', '3', '--resume', '--allow-recipe-change'))
    assert (runs[0] / PICTURE).stat().st_mtime_ns == before


@pytest.mark.parametrize('again', ['--preview', '--no-preview'])
def test_a_run_that_replaces_another_does_not_keep_its_picture(image_folder, tmp_path, again):
    run = tmp_path / 'run'
    train(flags(image_folder, run, *MORE, '--preview', '--epochs', '1'))
    before = sheet(run)
    train(flags(image_folder, run, *MORE, again, '--epochs', '1', '--vflip', '1', '--overwrite'))
    assert not (run / PICTURE).exists() if again == '--no-preview' else not np.array_equal(sheet(run), before)


def test_without_augmentation_the_pixels_are_those_of_the_files(image_folder, tmp_path):
    train(flags(image_folder, tmp_path / 'run', *MORE, '--preview', '--no-aug', '--epochs', '1'))
    tile = sheet(tmp_path / 'run')[12:212, 12:212]
    files = [Image.open(path) for path in sorted((image_folder / 'train').rglob('*.png'))]
    resized = [np.asarray(image.resize((200, 200), Image.Resampling.NEAREST)) for image in files]
    assert sum(np.array_equal(tile, image) for image in resized) == 1
