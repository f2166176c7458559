import multiprocessing
import os
import random
import socket
import subprocess
import sys
import time
from multiprocessing import resource_sharer
from multiprocessing.connection import Client

import numpy as np
import pytest
import torch

from iebn_zoo.data.device_loader import device_loader
from iebn_zoo.data.formats import UnreadableImageError
from iebn_zoo.data.images import CorruptImageError, open_images
from iebn_zoo.data.loader import CORRUPT, EpochSampler, make_loader
from iebn_zoo.data.transforms import train_transform
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.util.errors import UsageError
from tests.support.training.datasets import write_folder

pytestmark = pytest.mark.usefixtures('warm_python')

CONFIG = dict(input_size=[3, 32, 32], mean=[0.5] * 3, std=[0.25] * 3, interpolation='bilinear', crop_pct=1.0,
              crop_mode='center')
CPU = torch.device('cpu')


def args(*argv):
    return train_parser().parse_args(['--batch-size', '16', *argv])


def epoch_of(folder, *argv, epoch=0, train=True, **kwargs):
    loader = make_loader(open_images('', str(folder), train), args(*argv), CONFIG, CPU, train, **kwargs)
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    return torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])


def test_an_epoch_is_the_same_bits_for_any_number_of_workers(image_tars):
    # auto augment draws from random and numpy, the crop from torch
    one = epoch_of(image_tars, '-j', '0', '--aa', 'rand-m9-mstd0.5', epoch=3)
    for workers in ('1', '2'):
        other = epoch_of(image_tars, '-j', workers, '--aa', 'rand-m9-mstd0.5', epoch=3)
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_epochs_and_seeds_differ(image_folder):
    first = epoch_of(image_folder, '-j', '0')
    assert not torch.equal(first[0], epoch_of(image_folder, '-j', '0', epoch=1)[0])
    assert not torch.equal(first[0], epoch_of(image_folder, '-j', '0', '--seed', '7')[0])


def test_loading_in_the_main_process_leaves_its_generators_alone(image_folder):
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    before = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    epoch_of(image_folder, '-j', '0', '--aa', 'rand-m9-mstd0.5')
    assert (torch.rand(1), np.random.rand(), random.random()) == before


def test_evaluation_is_the_plain_image(image_folder):
    images, targets = epoch_of(image_folder, '-j', '0', train=False)
    source = open_images('', str(image_folder), False)
    raw = np.stack([np.asarray(source.read(i)[0]) for i in range(len(source))]).astype(np.float32)
    expected = (raw / 255 - 0.5) / 0.25
    np.testing.assert_allclose(images.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    assert targets.tolist() == [source.read(i)[1] for i in range(len(source))]


def test_pad_crop_is_a_shifted_copy(image_folder):
    images, targets = epoch_of(image_folder, '-j', '0', '--hflip', '0')
    raw = epoch_of(image_folder, '-j', '0', '--no-aug')[0]
    zero = (0 - 0.5) / 0.25
    found = 0
    for image, plain in zip(images, raw, strict=True):
        padded = torch.nn.functional.pad(plain, (4, 4, 4, 4), value=zero)
        windows = padded.unfold(1, 32, 1).unfold(2, 32, 1)  # C, 9, 9, 32, 32
        found += bool((windows - image[:, None, None]).abs().amax((0, 3, 4)).min() < 1e-5)
    assert found == len(images) == 48


@pytest.mark.parametrize('workers, repeats', [('0', '0'), ('2', '0'), ('0', '3')])
def test_an_epoch_can_be_begun_at_any_batch_and_pass_over_others(image_tars, workers, repeats):
    # erasing draws in the main process, while the batch before is in use
    flags = ('-j', workers, '--batch-size', '4', '--reprob', '0.9', '--aa', 'rand-m9', '--aug-repeats', repeats)
    loader = make_loader(open_images('', str(image_tars), True), args(*flags), CONFIG, CPU, True)
    loader.set_position(3, range(loader.batches_per_epoch))
    whole = list(loader)
    for steps in ([5, 6, 7, 8, 9, 10, 11], [0, 1, 4, 11]):
        loader.set_position(3, steps)
        assert len(loader) == len(steps)
        for step, (images, targets) in zip(steps, loader, strict=True):
            assert torch.equal(images, whole[step][0]) and torch.equal(targets, whole[step][1])


def test_erasing_leaves_the_generators_alone_and_differs_by_batch_and_process(image_folder):
    images = open_images('', str(image_folder), True)

    def erased(rank, epoch):
        loader = make_loader(images, args('-j', '0', '--hflip', '0', '--reprob', '1', '--batch-size', '8'),
                             CONFIG, CPU, True, rank, 2)
        loader.set_position(epoch, range(3))
        return torch.stack([x for x, _ in loader])

    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    before = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    a, b, c = erased(0, 0), erased(1, 0), erased(0, 1)
    assert (torch.rand(1), np.random.rand(), random.random()) == before
    assert torch.equal(a, erased(0, 0)) and not torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize('world', [1, 2, 3])
def test_processes_share_an_epoch(world):
    train = [list(EpochSampler(20, True, 5, rank, world)) for rank in range(world)]
    assert len({len(t) for t in train}) == 1
    assert len({i for t in train for i in t}) == 20 // world * world
    evaluation = [i for rank in range(world) for i in EpochSampler(20, False, 5, rank, world)]
    assert sorted(evaluation) == list(range(20))
    assert [len(EpochSampler(20, s, 5, r, world)) for s in (True, False) for r in range(world)] == [
        len(list(EpochSampler(20, s, 5, r, world))) for s in (True, False) for r in range(world)]


@pytest.mark.parametrize('world', [1, 2, 3, 4])
def test_repeated_images_are_dealt_over_the_processes_and_begin_anywhere(world):
    samplers = [EpochSampler(20, True, 5, rank, world, repeats=3) for rank in range(world)]
    for sampler in samplers:
        sampler.set_epoch(7)
    shares = [list(s) for s in samplers]
    assert [len(share) for share in shares] == [len(s) for s in samplers] == [20 // world] * world
    dealt = [key for keys in zip(*shares, strict=True) for key in keys]
    once = EpochSampler(20, True, 5)
    once.set_epoch(7)
    order = [key % 20 for key in once]
    assert [key % 20 for key in dealt] == [image for image in order for _ in range(3)][:20 // world * world]
    assert [key // 20 for key in dealt] == [21 + i % 3 for i in range(len(dealt))]  # no copy is augmented as another
    for begin, end in ((0, 2), (3, 5), (4, 4)):
        for sampler, share in zip(samplers, shares, strict=True):
            sampler.set_epoch(7, [(begin, end), (end, end + 1)])
            assert list(sampler) == share[begin:end + 1]


def test_copies_of_an_image_are_augmented_each_for_itself(image_folder):
    flags = ('-j', '0', '--batch-size', '4', '--aug-repeats', '2', '--hflip', '0')
    a, b = (epoch_of(image_folder, *flags, rank=rank, world_size=2) for rank in range(2))
    assert torch.equal(a[1], b[1])  # two processes and two copies: the same images in both
    assert (a[0] - b[0]).abs().amax((1, 2, 3)).gt(0).float().mean() > 0.8


def test_training_can_have_an_interpolation_of_its_own():
    for name in ('random', 'nearest'):
        transform = train_transform(args('--train-crop-mode', 'rrc', '--train-interpolation', name), CONFIG)
        assert name in str(transform).lower() or 'bilinear' in str(transform).lower() and name == 'random'
    assert 'nearest' not in str(train_transform(args('--train-crop-mode', 'rrc'), CONFIG)).lower()


def test_too_large_a_batch(image_folder):
    with pytest.raises(UsageError, match='48 training images make no batch of 64'):
        make_loader(open_images('', str(image_folder), True), args('-b', '64'), CONFIG, CPU, True)


@pytest.mark.parametrize('workers', ['0', '1'])
def test_corrupt_images(tmp_path, workers):
    folder = write_folder(tmp_path / 'data', train=6, test=4)
    for split in ('train', 'test'):
        (folder / split / 'bee' / 'bee_002.png').write_bytes(b'no image')
    with pytest.raises(CorruptImageError, match=r'bee_002\.png') as e:
        epoch_of(folder, '-j', workers, train=False)
    assert len(str(e.value).splitlines()) <= 3
    assert not multiprocessing.active_children()  # though the error and its traceback are still here
    images, targets = epoch_of(folder, '-j', workers, '--skip-corrupt', train=False)
    assert len(targets) == 12 and (targets == CORRUPT).sum() == 1
    assert (epoch_of(folder, '-j', workers, '--skip-corrupt')[1] >= 0).all()


@pytest.mark.parametrize('workers', ['0', '2'])
@pytest.mark.parametrize('on_device', [True, False])
def test_corrupt_images_are_named_once_and_lost_classes_too(tmp_path, workers, on_device, capfd):
    folder = write_folder(tmp_path / 'data', train=6, test=4)
    for image in [*(folder / 'train' / 'bee').iterdir(), folder / 'train' / 'ant' / 'ant_002.png']:
        image.write_bytes(b'no image')
    flags = args('-j', workers, '--skip-corrupt', '-b', '4')
    loader = make_loader(open_images('', str(folder), True), flags, CONFIG, CPU, True)
    assert loader.dataset.skipped() is None
    if on_device:
        loader = device_loader(loader, flags, CONFIG, True)
    for epoch in range(2):
        loader.set_position(epoch, range(loader.batches_per_epoch))
        assert all((targets != 1).all() for _, targets in loader)
    assert loader.dataset.skipped() == '7 of 18 images cannot be decoded, among them all images of the class bee'
    other = torch.zeros(18, dtype=torch.bool)
    other[-1] = True  # what another training process has found
    assert loader.dataset.skipped([loader.dataset.corrupt, other]).startswith('8 of 18 images')
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 7 and sum('bee_' in line for line in said) == 6
    assert all(line.startswith('skipped: cannot decode the image ') for line in said)


@pytest.mark.parametrize('workers', ['0', '1'])
def test_an_image_that_is_gone_is_a_short_message_and_is_not_passed_over(tmp_path, workers):
    folder = write_folder(tmp_path / 'data', train=6, test=4)
    loader = make_loader(open_images('', str(folder), False), args('-j', workers, '--skip-corrupt'), CONFIG, CPU, False)
    (folder / 'test' / 'bee' / 'bee_002.png').unlink()
    with pytest.raises(UnreadableImageError, match=r'^cannot read the image .*bee_002\.png: No such file') as e:
        list(loader)
    assert len(str(e.value).splitlines()) == 2 and not multiprocessing.active_children()


KEPT = """
import sys, torch
from iebn_zoo.data.images import open_images
from iebn_zoo.data.loader import make_loader
from iebn_zoo.training.config.arguments import train_parser
args = train_parser().parse_args(['-j', '1', '-b', '4'])
config = dict(input_size=[3, 32, 32], mean=[0.5] * 3, std=[0.25] * 3, interpolation='bilinear', crop_pct=1.0,
              crop_mode='center')
sys.kept = make_loader(open_images('', sys.argv[1], True), args, config, torch.device('cpu'), True)
print(len(list(sys.kept)))
"""


def test_a_process_ends_although_something_still_refers_to_a_loader(image_folder):
    done = subprocess.run([sys.executable, '-c', KEPT, str(image_folder)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, '12\n'), done.stderr


class Caller(torch.utils.data.Dataset):
    """A loader process that is called by ``call(address)``, where the run fetches the batches of shared memory."""

    def __init__(self, call):
        self.call = call

    def __len__(self):
        return 1

    def __getitem__(self, index):
        with open(os.devnull) as file:
            address, _ = resource_sharer.DupFd(file.fileno())._id
        self.call(address)
        time.sleep(0.5)
        return index


def hang_up(address):
    with socket.socket(socket.AF_UNIX) as call:
        call.connect(address)


def give_a_wrong_key(address):
    with pytest.raises(multiprocessing.AuthenticationError):
        Client(address, authkey=b'wrong')


@pytest.mark.parametrize('call, reported', [(hang_up, ''), (give_a_wrong_key, 'AuthenticationError: digest')])
def test_a_run_that_ends_while_it_fetches_a_batch_is_no_error_of_the_loader(image_folder, capfd, call, reported):
    started = make_loader(open_images('', str(image_folder), True), args('-j', '1'), CONFIG, CPU, True).loader
    list(torch.utils.data.DataLoader(Caller(call), num_workers=1, worker_init_fn=started.worker_init_fn))
    err = capfd.readouterr().err
    assert reported in err and bool(reported) == ('Traceback' in err), err
