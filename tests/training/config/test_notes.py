"""What a run says at its start about flags that are probably not meant, and that it is silent about all others."""
import pytest

from iebn_zoo.commands.train import main as train
from iebn_zoo.data.transforms import train_transform
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.notes import notes_on
from iebn_zoo.training.config.recipe import parse_with_recipe
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.training.run.checkpoint import LAST
from iebn_zoo.util.resources import recipe_names
from tests.support.training.datasets import flags, write_folder


def notes(words='', num_classes=10, batches=4, same=False, unmeasured=(), names=None, first=None, size=32):
    args = TrainSettings.from_flags(parse_with_recipe(train_parser(), words.split()))
    return notes_on(args, num_classes, batches, same, (size, size), unmeasured, names, first)


@pytest.mark.parametrize('words, said', [
    ('--epochs 1 --warmup-epochs 5', '--warmup-epochs is 5 and --epochs 1: the warmup is part of the epochs'),
    ('--epochs 5 --warmup-epochs 5 --sched step', '--warmup-epochs is 5 and --epochs 5'),
    ('--epochs 5 --warmup-epochs 4', None), ('--epochs 1 --warmup-epochs 5 --sched none', None),
    ('--grad-accum-steps 5', '--grad-accum-steps is 5, and an epoch has 4 batches per process'),
    ('--grad-accum-steps 4', None),
])
def test_flags_that_leave_nothing_to_do_are_told(words, said):
    found = notes(words)
    assert len(found) == (said is not None) and all(line.startswith(f'note: {said}') for line in found)


def test_top5_is_no_measure_of_five_classes():
    assert notes('--eval-metric top5', num_classes=6) == [] == notes('--eval-metric top1', num_classes=5)
    assert 'top5 is 100 in every epoch with 5 classes' in notes('--eval-metric top5', num_classes=5)[0]


def test_held_out_images_are_of_the_same_listing():
    assert notes('--holdout 0.1', same=True) == [] and 'look like those to train on' in notes(same=True)[0]


def test_classes_that_are_not_measured_are_named():
    assert notes(unmeasured='ab') == ['note: the evaluation has no images of 2 of 10 classes (a, b)']
    assert notes('--holdout 0.1', unmeasured='abcde') == [
        'note: the evaluation has no images of 5 of 10 classes (a, b, c and 2 more): 0.1 of their training images '
        'rounds to none']


@pytest.mark.parametrize('names, first, said', [
    (['a', 'b'], ['a', 'c'], 'class 1 was c and is b now'), (['a', 'b'], ['b', 'a'], 'class 0 was b and is a now'),
    (['a', 'b'], ['a', 'b'], None), (['a', 'b'], ['c'], None), (None, ['c'], None), (['a'], None, None),
])
def test_a_classifier_of_other_classes_is_told(names, first, said):
    found = notes(names=names, first=first)
    assert len(found) == (said is not None) and all(line.endswith(said) for line in found)


@pytest.mark.parametrize('words, size, said', [
    ('--scale 0.5 1 --ratio 1 2', 64, '--scale and --ratio have no effect in crop mode pad, the default up to 64 px'),
    ('--scale 0.5 1', 65, None), ('--scale 0.5 1 --train-crop-mode rrc', 32, None),
    ('--ratio 1 2 --train-crop-mode pad', 224, '--ratio has no effect in crop mode pad'),
    ('--train-interpolation random', 32, '--train-interpolation has no effect in crop mode pad'),
    ('--train-interpolation bicubic', 32, None), ('--train-interpolation random --aa rand-m9', 32, None),
    ('--crop-padding 8', 224, '--crop-padding has no effect in crop mode rrc'), ('--crop-padding 8', 32, None),
    ('--crop-padding 8 --train-crop-mode rkrr', 32, '--crop-padding has no effect in crop mode rkrr'),
    ('--no-aug --scale 0.5 1 --hflip 0 --aa rand-m9', 32, '--scale and --aa have no effect with --no-aug'),
    ('--aa rand-m9 --color-jitter 0.3', 32, '--color-jitter has no effect with --aa rand-m9'),
    ('--aa 3a --color-jitter 0.3', 32, None), ('--aa rand-m9 --color-jitter 0', 32, None),
    ('--mixup-prob 0.5', 32, '--mixup-prob has no effect without --mixup or --cutmix'),
    ('--mixup 1 --mixup-prob 0.5', 32, None), ('--cutmix 1 --mixup 1 --mixup-switch-prob 0.7', 32, None),
    ('--mixup 1 --mixup-switch-prob 0.7', 32, '--mixup-switch-prob has no effect unless both --mixup and --cutmix'),
    ('--bce-target-thresh 0.2 --bce-sum', 32, '--bce-target-thresh and --bce-sum have no effect without --bce-loss'),
    ('--bce-loss --bce-sum', 32, None),
], ids=str)
def test_flags_of_the_augmentation_without_effect_are_told(words, size, said):
    found = notes(words, size=size)
    assert len(found) == (said is not None) and all(line.startswith(f'note: {said}') for line in found), found


@pytest.mark.parametrize('words, size, other', [
    ('--scale 0.2 0.3', 32, ''), ('--ratio 1 3', 32, ''), ('--train-interpolation random', 32, ''),
    ('--crop-padding 8', 224, ''), ('--no-aug --aa rand-m9 --scale 0.2 0.3', 32, '--no-aug'),
    ('--color-jitter 0.9 --aa rand-m9', 32, '--aa rand-m9')])
def test_what_is_said_to_have_no_effect_has_none(words, size, other):
    config = dict(input_size=[3, size, size], mean=[0.5] * 3, std=[0.5] * 3, interpolation='bicubic', crop_pct=1.)
    made = [str(train_transform(train_parser().parse_args(argv.split()), config)) for argv in (words, other)]
    assert 'no effect' in notes(words, size=size)[0] and made[0] == made[1]


@pytest.mark.parametrize('name', recipe_names())
def test_no_shipped_recipe_has_a_flag_without_effect(name):
    assert not any('no effect' in line for line in notes(f'--config {name}', size=224 if 'imagenet' in name else 32))


def test_a_run_says_it_and_a_resumed_one_does_not_again(image_folder, tmp_path, capsys):
    small = ('--model-kwargs', 'layers=(1,1,1)')
    train(flags(image_folder, tmp_path / 'first', *small))
    assert 'note' not in capsys.readouterr().err
    other = write_folder(tmp_path / 'other', train=16, test=16, classes=('ant', 'dog', 'emu'))
    begin = (*small, '--initial-checkpoint', str(tmp_path / 'first' / LAST), '--val-split', 'train')
    train(flags(other, tmp_path / 'second', *begin))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith('note: ')]
    assert len(said) == 2 and 'to evaluate on look like those' in said[0] and 'class 1 was bee and is dog' in said[1]
    train(flags(other, tmp_path / 'second', *begin, '--resume'))
    assert 'note' not in capsys.readouterr().err
