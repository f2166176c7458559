"""Images in the memory of the device: the bits of the loader, for every setting that both can do."""
import pytest
import torch

from iebn_zoo.data import device_loader as module
from iebn_zoo.data.crop_and_flip import CropAndFlip
from iebn_zoo.data.device_loader import DeviceLoader, device_loader
from iebn_zoo.data.images import CorruptImageError, ImageSubset, open_images
from iebn_zoo.data.loader import CORRUPT, make_loader
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.train import train
from tests.support.training.datasets import flags, write_folder

CONFIG = dict(input_size=[3, 32, 32], mean=[0.5, 0.4, 0.3], std=[0.25, 0.2, 0.3], interpolation='bilinear',
              crop_pct=0.9, crop_mode='center')
CPU = torch.device('cpu')


def args(*argv):
    return train_parser().parse_args(['--batch-size', '7', '-j', '0', *argv])


def both(images, argv, train=True, config=CONFIG, **kwargs):
    """The loader, and its images in memory."""
    parsed = args(*argv)
    loader = make_loader(images, parsed, config, CPU, train, **kwargs)
    other = make_loader(images, parsed, config, CPU, train, **kwargs)
    return loader, device_loader(other, parsed if train else None, config, parsed.device_data)


def assert_same_batches(loader, other, epoch, steps):
    for one in (loader, other):
        one.set_position(epoch, steps)
    batches, others = list(loader), list(other)
    assert len(batches) == len(others) == len(steps) == len(other)
    for (x, y), (other_x, other_y) in zip(batches, others, strict=True):
        assert torch.equal(x, other_x) and torch.equal(y, other_y)
        assert x.dtype == other_x.dtype and x.stride() == other_x.stride() and y.dtype == other_y.dtype


@pytest.fixture(scope='module')
def large_folder(tmp_path_factory):
    """40 x 40 images, of which evaluation takes the middle."""
    return write_folder(tmp_path_factory.mktemp('data') / 'large', train=9, test=5, size=40)


@pytest.mark.parametrize('argv', [
    (), ('--crop-padding', '0'), ('--crop-padding', '9', '--hflip', '0.9'), ('--hflip', '0'), ('--vflip', '0.5'),
    ('--hflip', '0', '--vflip', '0.3', '--crop-padding', '1'), ('--hflip', '1', '--crop-padding', '0'), ('--no-aug',),
    ('--reprob', '0.7'), ('--aug-repeats', '3'), ('--seed', '123456'), ('--train-interpolation', 'random'),
    ('--img-size', '24', '--seed', '4000000000'), ('--in-chans', '1'),
], ids=' '.join)
def test_the_bits_of_the_loader(large_folder, argv):
    parsed = args(*argv)
    chans = parsed.in_chans or 3
    config = dict(CONFIG, input_size=[chans, *[parsed.img_size or 32] * 2], mean=CONFIG['mean'][:chans],
                  std=CONFIG['std'][:chans])
    images = open_images('', str(large_folder), True, mode='L' if chans == 1 else 'RGB')
    loader, other = both(images, argv, config=config)
    assert isinstance(other, DeviceLoader) and other.images.dtype == torch.uint8
    for epoch, steps in ((0, range(3)), (5, [2, 0]), (1, [])):
        assert_same_batches(loader, other, epoch, steps)


@pytest.mark.parametrize('rank', [0, 1])
def test_evaluation_and_the_share_of_each_process(large_folder, rank):
    for train_split in (True, False):
        images = open_images('', str(large_folder), train_split)
        subset = ImageSubset(images, range(1, len(images)))
        loader, other = both(subset, (), train_split, rank=rank, world_size=2)
        assert_same_batches(loader, other, 2, range(len(loader)))


def test_loader_processes_that_read_the_images_change_nothing(large_folder):
    images = open_images('', str(large_folder), True)
    assert torch.equal(both(images, ())[1].images, both(images, ('-j', '2'))[1].images)


def test_images_that_cannot_be_decoded(tmp_path):
    folder = write_folder(tmp_path / 'data', train=6, test=4)
    for split in ('train', 'test'):
        (folder / split / 'bee' / 'bee_002.png').write_bytes(b'no image')
    for train_split in (True, False):
        images = open_images('', str(folder), train_split)
        with pytest.raises(CorruptImageError, match=r'bee_002\.png'):
            both(images, ('-j', '1'), train_split)
        loader, other = both(images, ('--skip-corrupt',), train_split)
        assert_same_batches(loader, other, 0, range(len(loader)))
        assert (other.targets == CORRUPT).sum() == (0 if train_split else 1)


@pytest.mark.parametrize('argv, reason', [
    (('--aa', 'rand-m9-mstd0.5'), '--aa rand-m9-mstd0.5'), (('--color-jitter', '0.3'), '--color-jitter 0.3'),
    (('--train-crop-mode', 'rrc'), 'rrc'), (('--no-device-data',), '--no-device-data'),
])
def test_what_the_loader_must_do_is_left_to_it(image_folder, argv, reason):
    assert reason in both(open_images('', str(image_folder), True), argv)[1]


def test_large_images_stay_where_they_are_unless_asked_for(image_folder, monkeypatch):
    monkeypatch.setattr(module, '_AUTOMATIC', 1000)
    images = open_images('', str(image_folder), True)
    assert 'the images take' in both(images, ())[1]
    assert isinstance(both(images, ('--device-data',))[1], DeviceLoader)


def test_other_draws_of_torchvision_are_seen(image_folder, monkeypatch):
    draw = CropAndFlip.draw
    monkeypatch.setattr(CropAndFlip, 'draw', lambda self, count, seed: draw(self, count, seed + 1))
    assert 'torchvision draws' in both(open_images('', str(image_folder), True), ())[1]


def test_no_memory_is_a_message(image_folder, monkeypatch):
    from iebn_zoo.util.errors import UsageError

    def fails(*args, **kwargs):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(module.torch, 'empty', fails)
    with pytest.raises(UsageError, match='48 images take 0.0 GB, and cpu has not as much memory.*\n.*--no-device-data'):
        both(open_images('', str(image_folder), True), ('--device-data',))


def test_a_run_is_the_same_and_goes_on_either_way(image_folder, tmp_path, capsys):
    runs = {}
    for name in ('--device-data', '--no-device-data'):
        runs[name] = tmp_path / name.strip('-')
        train(train_parser().parse_args(flags(image_folder, runs[name], '--epochs', '2', '--mixup', '0.2', name)))
    rows = {name: (run / 'summary.csv').read_text() for name, run in runs.items()}
    assert len(set(rows.values())) == 1
    for name, run in runs.items():  # a third epoch, the other way
        other = next(n for n in runs if n != name)
        train(train_parser().parse_args(flags(
            image_folder, run, '--epochs', '3', '--mixup', '0.2', '--resume', '--allow-recipe-change', other)))
    assert len({(run / 'summary.csv').read_text() for run in runs.values()}) == 1
    capsys.readouterr()
    train(train_parser().parse_args(flags(
        image_folder, tmp_path / 'aa', '--epochs', '1', '--aa', 'rand-m3', '--device-data')))
    assert 'note: --device-data: --aa rand-m3 changes each image on its own; the loader' in capsys.readouterr().err
