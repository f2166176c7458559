import numpy as np
import pytest
from PIL import Image

from iebn_zoo.commands.train import main as train
from iebn_zoo.data.holdout import held_out_split
from iebn_zoo.data.images import LabelledImages, open_images
from iebn_zoo.data.loader import make_loader
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.util.errors import UsageError
from tests.support.training.datasets import CLASSES, flags


class Source:
    """As a named dataset: numbered by itself."""

    def __init__(self, labels):
        self.all = labels

    def __len__(self):
        return len(self.all)

    def read(self, index):
        return Image.new('RGB', (1, 1), (index, 0, 0)), self.all[index]

    def name(self, index):
        return str(index)

    def targets(self):
        return self.all

    def digest(self):
        return ''


def numbers(subset):
    return [subset.read(i)[0].getpixel((0, 0))[0] for i in range(len(subset))]


LABELS = [i % 3 for i in range(60)] + [3] * 4 + [4]


def test_a_share_of_every_class_is_held_out_and_nothing_is_in_both():
    kept, held = held_out_split(LabelledImages(Source(LABELS), None, 'RGB'), 0.1, seed=1)
    assert sorted(numbers(kept) + numbers(held)) == list(range(65))
    counts = np.bincount([LABELS[i] for i in numbers(held)], minlength=5)
    assert counts.tolist() == [2, 2, 2, 0, 0]  # a tenth of 4 rounds to none, and one image of a class stays
    assert [kept.read(i)[1] for i in range(len(kept))] == [LABELS[i] for i in numbers(kept)]


def test_the_split_is_the_seeds():
    images = LabelledImages(Source(LABELS), None, 'RGB')
    first, again, other = (numbers(held_out_split(images, 0.3, seed)[1]) for seed in (1, 1, 2))
    assert first == again and first != other and len(first) == len(other)


@pytest.mark.parametrize('kind', ['folder', 'tar'])
def test_folders_and_tars(kind, image_folder, image_tars, tmp_path):
    images = open_images('', str(image_folder if kind == 'folder' else image_tars), True)
    kept, held = held_out_split(images, 0.25, seed=3)
    assert (len(kept), len(held)) == (36, 12) and held.class_names == list(CLASSES)
    assert np.bincount([held.read(i)[1] for i in range(12)]).tolist() == [4, 4, 4]


@pytest.mark.parametrize('fraction, named', [(0.0, 'expected one above 0'), (1.0, 'expected one above 0'),
                                             (0.001, 'holds out no image')])
def test_a_share_that_cannot_be_is_a_message(fraction, named):
    with pytest.raises(UsageError, match=named):
        held_out_split(LabelledImages(Source(LABELS), None, 'RGB'), fraction, 0)


def test_loader_processes_read_the_subset(image_tars):
    import torch

    from iebn_zoo.training.config.arguments import train_parser
    kept, _ = held_out_split(open_images('', str(image_tars), True), 0.25, seed=3)
    args = train_parser().parse_args(['-b', '5', '-j', '1'])
    config = dict(input_size=[3, 32, 32], mean=[0.5] * 3, std=[0.5] * 3, interpolation='bilinear', crop_pct=1.0,
                  crop_mode='center')
    loader = make_loader(kept, args, config, torch.device('cpu'), train=False)
    targets = torch.cat([t for _, t in loader])
    assert targets.tolist() == [kept.read(i)[1] for i in range(36)]


def test_a_run_evaluates_on_what_it_holds_out(image_folder, tmp_path):
    train(flags(image_folder, tmp_path / 'run', '--epochs', '1', '--holdout', '0.25'))
    last = load_checkpoint(tmp_path / 'run' / LAST)
    assert (last['num_train_images'], last['num_eval_images']) == (36, 12)
    with pytest.raises(UsageError, match='contradict'):
        train(flags(image_folder, tmp_path / 'other', '--holdout', '0.25', '--val-split', 'test'))
