"""What the exported files get right: the count of ``validate``, in evaluation.json, in the card and on the Hub."""
import json

import pytest
import torch
from PIL import Image

from iebn_zoo.commands.hub.export import main
from iebn_zoo.hub.card.evaluation_facts import Evaluation, read_evaluation
from iebn_zoo.hub.package.check import check_directory
from iebn_zoo.hub.published.__main__ import main as publish
from iebn_zoo.training.config.arguments import validate_parser
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint, save_checkpoint
from iebn_zoo.training.validate import validate
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.hub.exported import card_data
from tests.support.hub.runs import make_run

CLASSES = ('ant', 'bee', 'cat', 'dog')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A run, and twelve images of its classes."""
    place = tmp_path_factory.mktemp('measured')
    make_run(place / 'run', amp=True, amp_dtype='bfloat16', data_dir='elsewhere/images')
    last = load_checkpoint(place / 'run' / LAST)
    save_checkpoint(place / 'run' / LAST, {**last, 'num_eval_images': 12})
    pixels = torch.randint(0, 256, (12, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for i, image in enumerate(pixels):
        folder = place / 'images' / 'val' / CLASSES[i % 4]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(folder / f'{i}.png')
    return place


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setattr('iebn_zoo.hub.package.export.reload_fresh', lambda made: check_directory(made).difference)


@pytest.fixture(scope='module')
def exported(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('iebn_zoo.hub.package.export.reload_fresh', lambda made: check_directory(made).difference)
        assert main([str(place / 'run'), '--output', str(place / 'out'), '--data-dir', str(place / 'images')]) == 0
    return place / 'out'


def test_the_count_is_that_of_validate(exported, place):
    found = validate(validate_parser().parse_args(
        ['--model', f'local-dir:{exported}', '--data-dir', str(place / 'images'), '--device', 'cpu']))
    evaluation = read_evaluation(exported)
    assert evaluation == Evaluation(*(found[name] for name in ('top1_count', 'top5_count', 'count', 'loss')))
    assert evaluation.count == 12 and evaluation.top5_count == 12  # four classes
    assert evaluation.top1 == found['top1']


def test_the_card_says_it_beside_the_log(exported):
    evaluation, card = read_evaluation(exported), (exported / 'README.md').read_text()
    assert f'| **as exported**, float32 | the files | {evaluation.top1:.2f} ({evaluation.top1_count}) |' in card
    assert '| last epoch (2), **exported** |' in card and 'which computed in bfloat16' in card
    values = {result.metric_name: result.metric_value for result in card_data(card).eval_results}
    assert values == {'top-1': round(evaluation.top1, 2), 'top-5': round(evaluation.top5, 2)}


def test_golden_binds_it(exported, tmp_path):
    assert 'evaluation.json' in [file.path for file in check_directory(exported).files]
    changed = tmp_path / 'changed'
    changed.mkdir()
    for path in exported.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    (changed / 'evaluation.json').write_text((exported / 'evaluation.json').read_text().replace('12', '13'))
    with pytest.raises(IEBNZooError, match='evaluation.json'):
        check_directory(changed)


def test_a_published_folder_keeps_it(place):
    cards = place / 'cards'
    cards.mkdir()
    argv = [str(cards), '--add', str(place / 'run'), '--tag', 'measured', '--data-dir', str(place / 'images')]
    assert publish(argv) == 0 and publish([str(cards)]) == 0  # added, and its card written anew
    folder = cards / 'iebn_resnet20_cifar.measured'
    assert '**as exported**, float32' in (folder / 'README.md').read_text()
    assert read_evaluation(folder) is not None and not check_directory(folder).edited


def test_without_images_nothing_is_measured(place, tmp_path):
    assert main([str(place / 'run'), '--output', str(tmp_path / 'out')]) == 0
    assert read_evaluation(tmp_path / 'out') is None
    assert 'as exported' not in (tmp_path / 'out' / 'README.md').read_text()


@pytest.mark.parametrize('flags', [['--dataset', 'torch/cifar10'], ['--val-split', 'test'], ['--dataset-download']],
                         ids=' '.join)
def test_images_need_a_place(place, tmp_path, flags):
    with pytest.raises(UsageError, match='Give --data-dir'):
        main([str(place / 'run'), '--output', str(tmp_path / 'out'), *flags])
    assert not (tmp_path / 'out').exists()


def test_images_of_other_classes_leave_nothing(place, tmp_path):
    (tmp_path / 'images' / 'val' / 'zebra').mkdir(parents=True)
    Image.new('RGB', (32, 32)).save(tmp_path / 'images' / 'val' / 'zebra' / '0.png')
    with pytest.raises(UsageError):
        main([str(place / 'run'), '--output', str(tmp_path / 'out'), '--data-dir', str(tmp_path / 'images')])
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('args, said', [
    (dict(holdout=0.1), 'held out of the training split'), (dict(val_split='other'), 'evaluated on split other'),
    (dict(dataset='torch/cifar10'), 'evaluated on CIFAR-10')], ids=lambda value: str(value)[:20])
def test_images_that_the_run_was_not_evaluated_on(place, tmp_path, args, said):
    run = make_run(tmp_path / 'run', **args)
    with pytest.raises(UsageError, match=said):
        main([str(run), '--output', str(tmp_path / 'out'), '--data-dir', str(place / 'images')])
    assert not (tmp_path / 'out').exists()


def test_another_number_of_images(place, tmp_path):
    with pytest.raises(UsageError, match='has 12 images, and the run was evaluated on 321'):
        main([str(make_run(tmp_path / 'run')), '--output', str(tmp_path / 'out'), '--data-dir', str(place / 'images')])
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('content', ['', '[]', '{}', '{"top1_count": 3, "top5_count": 2, "count": 9, "loss": 1}',
                                     '{"top1_count": 0, "top5_count": 0, "count": 0, "loss": 1}',
                                     json.dumps(dict(top1_count='x', top5_count=2, count=9, loss=1))])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / 'evaluation.json').write_text(content)
    with pytest.raises(IEBNZooError, match='cannot read .*evaluation.json'):
        read_evaluation(tmp_path)
