"""Every dataset of torchvision that timm knows, from small files in its format, and what the splits are called."""
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from iebn_zoo.commands.validate import main as validate
from iebn_zoo.data.images import TRAIN_NAMES, VAL_NAMES, open_images
from iebn_zoo.data.named import is_folder
from iebn_zoo.util.errors import UsageError
from tests.support.training.datasets import write_fashion_mnist

TRAIN, TEST = 6, 4
SPLITS = {'train': TRAIN, 't10k': TEST}
LABELS = [2, 0, 1, 1, 0, 2]  # of the images in order


def save(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (8, 8), (30 * number,) * 3).save(path)


def idx(array, kind):
    head = bytes([0, 0, kind, array.ndim]) + b''.join(n.to_bytes(4, 'big') for n in array.shape)
    return head + array.astype(array.dtype.newbyteorder('>')).tobytes()


def images_of(count):
    return np.stack([np.full((28, 28), 30 * i, np.uint8) for i in range(count)])


def write_mnist(root, patch, kind='MNIST'):
    raw = root / kind / 'raw'
    raw.mkdir(parents=True)
    for split, count in SPLITS.items():
        (raw / f'{split}-images-idx3-ubyte').write_bytes(idx(images_of(count), 8))
        (raw / f'{split}-labels-idx1-ubyte').write_bytes(idx(np.array(LABELS[:count], np.uint8), 8))


def write_qmnist(root, patch):
    raw = root / 'QMNIST' / 'raw'
    raw.mkdir(parents=True)
    for split, count in (('train', TRAIN), ('test', TEST)):
        table = np.zeros((count, 8), np.int32)  # the class, and seven columns about who wrote the digit
        table[:, 0], table[:, 1:] = LABELS[:count], np.arange(7) + 40
        (raw / f'qmnist-{split}-images-idx3-ubyte').write_bytes(idx(images_of(count), 8))
        (raw / f'qmnist-{split}-labels-idx2-int').write_bytes(idx(table, 12))


def write_cifar(root, patch, kind=datasets.CIFAR10, key='labels'):
    folder = root / kind.base_folder
    folder.mkdir()
    names = ['a', 'b', 'c']
    for attribute, count in (('train_list', TRAIN), ('test_list', TEST)):
        name = getattr(kind, attribute)[0][0]
        pixels = np.stack([np.full(3 * 32 * 32, 30 * i, np.uint8) for i in range(count)])
        (folder / name).write_bytes(pickle.dumps({'data': pixels, key: LABELS[:count]}))
        patch.setattr(kind, attribute, [[name, None]])
    (folder / kind.meta['filename']).write_bytes(pickle.dumps({kind.meta['key']: names}))
    patch.setattr(kind, 'meta', {**kind.meta, 'md5': None})


def write_cifar100(root, patch):
    write_cifar(root, patch, datasets.CIFAR100, 'fine_labels')


def write_imagenet(root, patch):
    names = {f'n{label:08d}': (name, f'{name} of the field') for label, name in enumerate('abc')}
    torch.save((names, []), root / 'meta.bin')
    for split, count in (('train', TRAIN), ('val', TEST)):
        for i, label in enumerate(LABELS[:count]):
            save(root / split / f'n{label:08d}' / f'{i}.png', i)


def write_places365(root, patch):
    kind = datasets.Places365
    patch.setattr(kind, '_CATEGORIES_META', ('categories.txt', None))
    (root / 'categories.txt').write_text('/a/abbey 0\n/b/barn 1\n/c/cave 2\n')
    lists = {}
    for split, folder, count in (('train-standard', 'data_large_standard', TRAIN), ('val', 'val_large', TEST),
                                 ('train-challenge', 'data_large_challenge', 5)):
        lists[split] = (f'{split}.txt', None)
        (root / f'{split}.txt').write_text(''.join(f'/{i}.png {label}\n' for i, label in enumerate(LABELS[:count])))
        for i in range(count):
            save(root / folder / f'{i}.png', i)
    patch.setattr(kind, '_FILE_LIST_META', lists)


def write_inaturalist(root, patch):
    for split, count in (('2021_train', TRAIN), ('2021_valid', TEST), ('2021_train_mini', 5)):
        for i, label in enumerate(LABELS[:count]):
            save(root / split / f'{label:05d}_k_p_c_o_f_g_s' / f'{i}.png', i)


WRITERS = {
    'mnist': write_mnist, 'cifar10': write_cifar, 'cifar100': write_cifar100, 'qmnist': write_qmnist,
    'kmnist': lambda root, patch: write_mnist(root, patch, 'KMNIST'),
    'fashion_mnist': lambda root, patch: write_mnist(root, patch, 'FashionMNIST'),
    'imagenet': write_imagenet, 'places365': write_places365, 'inaturalist': write_inaturalist}


@pytest.fixture(params=WRITERS)
def named(request, tmp_path, monkeypatch):
    WRITERS[request.param](tmp_path, monkeypatch)
    return f'torch/{request.param}', str(tmp_path)


def test_every_split_has_its_images_and_their_classes(named):
    for train, split, count in (
            (True, None, TRAIN), (False, None, TEST), *((train, name, TRAIN) for train in (True, False)
                                                       for name in TRAIN_NAMES),
            *((train, name, TEST) for train in (True, False) for name in VAL_NAMES)):
        images = open_images(*named, train, split)
        assert len(images) == count and sorted(images.targets()) == sorted(LABELS[:count]), (train, split)
    pairs = [images.read(i) for i in range(count)]
    assert images.targets() == [target for _, target in pairs] and all(type(t) is int for t in images.targets())
    assert sorted(image.getpixel((0, 0))[0] for image, _ in pairs) == [0, 30, 60, 90]
    names = images.class_names or []
    assert all(type(name) is str for name in names) and (len(names) >= 3 or 'inaturalist' in named[0])


def test_a_split_that_is_not_there_is_an_error_that_names_the_others(named):
    for train, flag in ((True, '--train-split'), (False, '--val-split')):
        with pytest.raises(UsageError) as e:
            open_images(*named, train, 'nonsense')
        assert str(e.value).startswith(f"{named[0]} has no split 'nonsense'.\nGive {flag} one of: train, test")


def test_validate_measures_the_split_that_it_says(tmp_path, capsys):
    write_fashion_mnist(tmp_path, train=12, test=7)
    argv = ['--model', 'bn_resnet20_cifar.fashion_mnist', '--data-dir', str(tmp_path), '--dataset',
            'torch/fashion_mnist', '-j', '0', '--device', 'cpu']
    for split, count in ((None, 7), ('test', 7), ('val', 7), ('train', 12)):
        validate([*argv, *([] if split is None else ['--val-split', split])])
        found = json.loads(capsys.readouterr().out)
        assert (found['val_split'], found['count']) == (split, count)
    with pytest.raises(UsageError, match="torch/fashion_mnist has no split 'nonsense'"):
        validate([*argv, '--val-split', 'nonsense'])


def test_more_splits_of_some_datasets(tmp_path, monkeypatch):
    write_places365(tmp_path, monkeypatch)
    write_inaturalist(tmp_path, monkeypatch)
    for name, split in (('places365', 'train-challenge'), ('inaturalist', '2021_train_mini'),
                        ('INat', '2021_train_mini')):
        assert len(open_images(f'torch/{name}', str(tmp_path), True, split)) == 5


def test_synonyms_of_a_class_are_one_name(tmp_path, monkeypatch):
    write_imagenet(tmp_path, monkeypatch)
    assert open_images('torch/imagenet', str(tmp_path), True).class_names[1] == 'b, b of the field'


def test_which_names_mean_a_folder():
    assert all(map(is_folder, ('', None, 'torch/folder', 'torch/image_folder', 'torch/Image_Folder')))
    assert not any(map(is_folder, ('torch/mnist', 'hfds/torch/folder', 'folder')))
