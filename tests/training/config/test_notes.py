"""What a run says at its start about flags that are probably not meant, and that it is silent about all others."""
import pytest

from iebn_zoo.commands.train import main as train
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.notes import notes_on
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.training.run.checkpoint import LAST
from tests.support.training.datasets import flags, write_folder


def notes(words='', num_classes=10, batches=4, same=False, unmeasured=(), names=None, first=None):
    args = TrainSettings.from_flags(train_parser().parse_args(words.split()))
    return notes_on(args, num_classes, batches, same, unmeasured, names, first)


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
