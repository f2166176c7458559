import errno
import shutil

import numpy as np
import pytest
from PIL import Image

from iebn_zoo.data.images import CorruptImageError, open_images
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.training.datasets import CLASSES, write_fashion_mnist, write_folder


@pytest.mark.parametrize('kind', ['image_folder', 'image_tars'])
def test_folder_and_tar_hold_the_same_images(kind, request, image_folder):
    images = open_images('', str(request.getfixturevalue(kind)), train=False)
    assert images.class_names == list(CLASSES) and len(images) == 21
    image, target = images.read(8)
    assert target == 1
    expected = np.asarray(Image.open(image_folder / 'test' / 'bee' / 'bee_001.png'))
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_grey_mode(image_folder):
    assert open_images('', str(image_folder), True, mode='L').read(0)[0].mode == 'L'


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / 'data', train=3, test=2)


def message(*args, **kwargs):
    with pytest.raises(IEBNZooError) as e:
        open_images(*args, **kwargs)
    assert len(str(e.value).splitlines()) <= 3
    return e.value


def test_missing_directory_and_split(tmp_path):
    assert 'no such directory' in str(message('', str(tmp_path / 'nope'), True))
    assert 'has no train split' in str(message('', str(tmp_path), True))
    assert isinstance(message('', None, True), UsageError)


def test_empty_split(tmp_path):
    (tmp_path / 'train').mkdir()
    assert 'no images in' in str(message('', str(tmp_path), True))


def test_empty_tar(tmp_path):
    (tmp_path / 'train.tar').write_bytes(b'')
    assert 'cannot be read as a tar: empty file' in str(message('', str(tmp_path), True))


def test_class_folder_without_images_is_named(folder):
    (folder / 'train' / 'bat').mkdir()
    assert "bat has no images" in str(message('', str(folder), True))


def test_unknown_class_in_evaluation_is_named(folder):
    shutil.copytree(folder / 'test' / 'ant', folder / 'test' / 'zebu')
    assert "'zebu'" in str(message('', str(folder), False, class_names=list(CLASSES)))


def test_subset_keeps_the_numbers_of_the_known_classes(folder):
    shutil.rmtree(folder / 'test' / 'ant')
    images = open_images('', str(folder), False, class_names=list(CLASSES))
    assert {images.read(i)[1] for i in range(len(images))} == {1, 2}


def test_corrupt_image_is_named(folder):
    bad = folder / 'train' / 'bee' / 'bee_001.png'
    bad.write_bytes(bad.read_bytes()[:60])
    images = open_images('', str(folder), True)
    with pytest.raises(CorruptImageError, match=r'bee_001\.png') as e:
        for i in range(len(images)):
            images.read(i)
    assert str(e.value).endswith('Replace or remove it.') and str(e.value.with_flag()).endswith('with --skip-corrupt.')


def test_an_image_that_may_not_be_read_is_not_passed_over(folder, monkeypatch):
    images = open_images('', str(folder), True)

    def denied(index):
        raise PermissionError(errno.EACCES, 'Permission denied')

    monkeypatch.setattr(images.source, 'open', denied)  # root may read everything
    with pytest.raises(IEBNZooError, match='cannot read the image .*ant_000.png: Permission denied') as e:
        images.read(0)
    assert not isinstance(e.value, CorruptImageError)


def test_one_class_is_nothing_to_learn_but_enough_to_measure(folder):
    for name in CLASSES[1:]:
        for split in ('train', 'test'):
            shutil.rmtree(folder / split / name)
    assert 'has a single class, ant' in str(message('', str(folder), True))
    assert len(open_images('', str(folder), False, class_names=list(CLASSES))) == 2


def test_a_folder_of_class_folders_is_taken_whole_or_both_ways_are_named(folder):
    whole = folder / 'train'
    said = str(message('', str(whole), True))
    assert 'has no train split; its folders look like classes' in said
    assert '--holdout' in said and 'train/CLASS/' in said and '--val-split .' in said
    assert len(open_images('', str(whole), True, whole=True)) == 9
    assert len(open_images('', str(whole), False, split='.')) == 9
    assert len(open_images('', str(folder), True, whole=True)) == 9  # where there is a split it is taken


@pytest.mark.parametrize('name', ['train', 'test', 'valid'])
def test_a_class_that_is_called_like_a_split_is_not_taken_for_it(folder, name):
    whole = folder / 'train'
    (whole / 'cat').rename(whole / name)
    (whole / name / 'deeper').mkdir()
    (whole / name / 'cat_000.png').rename(whole / name / 'deeper' / 'cat_000.png')
    said = str(message('', str(whole), True, whole=True))
    assert f'{name} may be a split or a class: images lie beside it too, in ant, bee.' in said
    assert f'--train-split {name}' in said and '--train-split . ' in said
    assert open_images('', str(whole), True, whole=True, split='.').class_names == sorted(['ant', 'bee', name])
    if name != 'train':
        assert '--val-split .' in str(message('', str(whole), False, class_names=['ant', 'bee', name]))


def test_what_lies_beside_the_splits_is_no_concern_of_theirs(folder):
    shutil.copytree(folder / 'train' / 'ant', folder / 'unlabelled')
    (folder / 'notes').mkdir()
    (folder / 'gone').symlink_to(folder / 'nothing')
    for whole in (False, True):
        assert len(open_images('', str(folder), True, whole=whole)) == 9
    assert len(open_images('', str(folder), False, class_names=list(CLASSES))) == 6
    shutil.rmtree(folder / 'test')
    assert 'images lie beside it too, in unlabelled.' in str(message('', str(folder), True, whole=True))
    shutil.rmtree(folder / 'unlabelled')
    assert len(open_images('', str(folder), True, whole=True)) == 9


def test_torchs_image_folder_is_a_folder_and_all_splits_have_the_training_order(folder):
    shutil.rmtree(folder / 'test' / 'ant')
    train = open_images('torch/image_folder', str(folder), True)
    test = open_images('torch/image_folder', str(folder), False, class_names=train.class_names)
    assert train.class_names == test.class_names == list(CLASSES) and set(test.targets()) == {1, 2}


def test_the_digest_is_of_names_order_and_sizes(folder, tmp_path):
    def digest(root=folder):
        return open_images('', str(root), True).digest

    first = digest()
    elsewhere = shutil.copytree(folder, tmp_path / 'copy')
    assert digest(elsewhere) == first
    (elsewhere / 'train' / 'ant' / 'notes.txt').write_text('no image')
    assert digest(elsewhere) == first
    (elsewhere / 'train' / 'ant' / 'ant_000.png').rename(elsewhere / 'train' / 'ant' / 'ant_009.png')
    assert digest(elsewhere) != first
    image = folder / 'train' / 'ant' / 'ant_000.png'
    image.write_bytes(image.read_bytes() + b' ')
    assert digest() != first


def test_streams_and_unknown_datasets_are_refused(tmp_path):
    for name in ('tfds/mnist', 'hfids/uoft-cs/cifar100', 'wds/x'):
        assert f'{name} gives its images as a stream' in str(message(name, str(tmp_path), True))
    assert "unknown --dataset 'cifar100'" in str(message('cifar100', str(tmp_path), True))
    assert 'torch/nothing' in str(message('torch/nothing', str(tmp_path), True))


def test_torch_dataset_that_is_not_there(tmp_path):
    assert '--dataset-download' in str(message('torch/cifar100', str(tmp_path), True))
    assert '--dataset-download' in str(message('torch/cifar100', str(tmp_path / 'nope'), True))


def test_torch_dataset_of_idx_files(tmp_path):
    write_fashion_mnist(tmp_path)
    images = open_images('torch/fashion_mnist', str(tmp_path), False)
    assert len(images) == 6 and images.class_names[9] == 'Ankle boot'
    image, target = images.read(3)
    assert (image.mode, image.size, target) == ('RGB', (28, 28), 3)


def test_an_image_that_torchvision_cannot_decode_is_a_corrupt_one(folder):
    from torchvision.datasets import ImageFolder

    from iebn_zoo.data.images import LabelledImages
    from iebn_zoo.data.named import NamedSource
    bad = folder / 'train' / 'ant' / 'ant_001.png'
    bad.write_bytes(bad.read_bytes()[:60])
    source = NamedSource.__new__(NamedSource)  # of a dataset whose files cannot be had here, such as torch/imagenet
    source.dataset, source.label, source.reader = ImageFolder(str(folder / 'train')), 'torch/imagenet', None
    images = LabelledImages(source, list(CLASSES), 'RGB')
    assert images.read(0)[1] == 0
    with pytest.raises(CorruptImageError, match='cannot decode the image number 1 of torch/imagenet'):
        images.read(1)
