"""Training and evaluation see an image in the same geometry: drawn shapes through both."""
import numpy as np
import pytest
from PIL import Image, ImageDraw

from iebn_zoo.data.transforms import eval_transform, train_transform
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.util.errors import UsageError

SIZES = [(400, 100), (100, 400), (64, 64), (32, 32), (30, 45), (20, 20)]
CROP_MODES = ['center', 'squash', 'border']


def config(crop_mode='center', crop_pct=1.0, size=32, **more):
    return dict(input_size=[3, size, size], mean=[0.2] * 3, std=[0.25] * 3, interpolation='bilinear',
                crop_pct=crop_pct, crop_mode=crop_mode, **more)


def args(*argv):
    return train_parser().parse_args(['--hflip', '0', *argv])


def drawn(size):
    """A white square of half the shorter side in the middle of a black image."""
    image = Image.new('RGB', size)
    half = min(size) / 4
    x, y = size[0] / 2, size[1] / 2
    ImageDraw.Draw(image).rectangle((x - half, y - half, x + half - 1, y + half - 1), fill='white')
    return image


def extent(array):
    """Width and height of what is white."""
    white = np.asarray(array)[0] > 127
    return white.any(0).sum(), white.any(1).sum()


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('crop_mode', CROP_MODES)
@pytest.mark.parametrize('crop_pct', [1.0, 0.8])
@pytest.mark.parametrize('more', [(), ('--train-interpolation', 'random'), ('--crop-padding', '0')], ids=str)
def test_the_square_is_as_wide_and_as_high_in_training_as_in_evaluation(size, crop_mode, crop_pct, more):
    image, settings = drawn(size), config(crop_mode, crop_pct)
    seen = eval_transform(settings)(image)
    train = train_transform(args(*more), settings)
    for _ in range(4):
        trained = train(image)
        assert trained.shape == seen.shape == (3, 32, 32)
        np.testing.assert_allclose(extent(trained), extent(seen), atol=1)
    if crop_mode == 'center':
        width, height = extent(seen)
        assert abs(width - height) <= 1 and abs(width - 16 / crop_pct) <= 1.5  # a square, at the scale of crop_pct


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('crop_mode', CROP_MODES)
def test_without_augmentation_training_sees_what_evaluation_sees(size, crop_mode):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    settings = config(crop_mode, 0.9)
    np.testing.assert_array_equal(train_transform(args('--no-aug'), settings)(image), eval_transform(settings)(image))


def test_the_padded_crop_moves_by_at_most_the_padding_and_is_the_image_itself():
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
    padded = np.pad(np.asarray(image), ((3, 3), (3, 3), (0, 0)))
    windows = {padded[y:y + 32, x:x + 32].tobytes() for y in range(7) for x in range(7)}
    train = train_transform(args('--crop-padding', '3'), config())
    seen = {np.ascontiguousarray(np.asarray(train(image)).transpose(1, 2, 0)).tobytes() for _ in range(60)}
    assert seen <= windows and len(seen) > 20


@pytest.mark.parametrize('mode', ['rrc', 'rkrc', 'rkrr'])
def test_timms_crop_modes_are_timms(mode):
    array = train_transform(args('--train-crop-mode', mode), config())(drawn((400, 100)))
    assert array.shape == (3, 32, 32)


def test_large_images_are_cropped_at_random_by_default():
    assert 'RandomResizedCrop' in str(train_transform(args(), config(size=224)))
    assert 'RandomResizedCrop' not in str(train_transform(args('--train-crop-mode', 'pad'), config(size=224)))


def test_a_policy_that_does_not_exist_is_a_message():
    from iebn_zoo.data.transforms import make_transform
    with pytest.raises(UsageError, match='the image settings cannot be used.*\n.*--aa'):
        make_transform(args('--aa', 'nothing-m9'), config())
