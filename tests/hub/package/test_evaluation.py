"""What the exported files get right: the count of ``validate``, in evaluation.json, in the card and on the Hub."""
import json
import shutil
import tarfile

import pytest
import torch
from PIL import Image

from iebn_zoo.commands.hub.export import main
from iebn_zoo.data.images import open_images
from iebn_zoo.hub.card.evaluation_facts import Evaluation, read_evaluation
from iebn_zoo.hub.card.run_facts import read_run
from iebn_zoo.hub.package.check import check_directory
from iebn_zoo.hub.package.evaluation import EvaluationImages, evaluate_directory, evaluated_on
from iebn_zoo.hub.package.export import export
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


def recorded(place, run, **more):
    """A run like that of ``place``, whose checkpoint records the digest of its evaluation images."""
    make_run(run, **more)
    images = open_images('', str(place / 'images'), train=False)
    last = load_checkpoint(run / LAST)
    data = dict(train='0' * 64, eval=images.digest)
    save_checkpoint(run / LAST, {**last, 'num_eval_images': 12, 'data': data})
    return run


def other_images(place, there):
    """As many images with the same names, two of which have changed their pixels and so their sizes."""
    shutil.copytree(place / 'images', there)
    for name in ('ant/0', 'bee/1'):
        Image.new('RGB', (32, 32)).save(there / 'val' / f'{name}.png')


def test_as_many_other_images(place, tmp_path):
    other_images(place, tmp_path / 'other')
    run = recorded(place, tmp_path / 'run')
    with pytest.raises(UsageError, match='other images than the run was evaluated on') as caught:
        main([str(run), '--output', str(tmp_path / 'out'), '--data-dir', str(tmp_path / 'other')])
    assert len(str(caught.value).splitlines()) == 2 and not (tmp_path / 'out').exists()


@pytest.mark.parametrize('form', ['folder', 'tar', 'torch/folder'])
def test_the_same_images_elsewhere_and_packed(place, tmp_path, form):
    run = recorded(place, tmp_path / 'run')
    (tmp_path / 'moved').mkdir()
    if form == 'tar':
        with tarfile.open(tmp_path / 'moved' / 'val.tar', 'w') as packed:
            packed.add(place / 'images' / 'val', 'val')
    else:
        shutil.copytree(place / 'images' / 'val', tmp_path / 'moved' / 'val')
    flags = ['--dataset', form] if '/' in form else []
    images = EvaluationImages(str(tmp_path / 'moved'), form if flags else '')
    last = load_checkpoint(run / LAST)
    digest = evaluated_on(last, read_run(run, last, 4), images)
    assert digest == last['data']['eval']  # it is compared
    argv = [str(run), '--output', str(tmp_path / 'out'), '--data-dir', images.data_dir]
    if flags:  # the card calls such a dataset by its name, and that of the run by another
        directory = export(run, tmp_path / 'out')[0]
        assert evaluate_directory(directory, images, 12, digest).count == 12
    else:
        assert main(argv) == 0 and read_evaluation(tmp_path / 'out').count == 12


def test_a_digest_of_another_kind_of_dataset_is_not_compared(place, tmp_path):
    run = recorded(place, tmp_path / 'run', dataset='hfds/uoft-cs/cifar10')
    last = load_checkpoint(run / LAST)
    for name in ('torch/cifar10', ''):
        assert evaluated_on(last, read_run(run, last, 4), EvaluationImages('x', name)) is None
    same = EvaluationImages('x', 'hfds/uoft-cs/cifar10')
    assert evaluated_on(last, read_run(run, last, 4), same) == last['data']['eval']
    for data in (None, {}, 'x', dict(eval=5)):
        assert evaluated_on(dict(last, data=data), read_run(run, last, 4), same) is None
    (run / 'args.yaml').unlink()  # nothing tells which dataset it was
    assert evaluated_on(last, read_run(run, dict(last, args=None), 4), EvaluationImages('x')) is None


@pytest.mark.parametrize('content', ['', '[]', '{}', '{"top1_count": 3, "top5_count": 2, "count": 9, "loss": 1}',
                                     '{"top1_count": 0, "top5_count": 0, "count": 0, "loss": 1}',
                                     json.dumps(dict(top1_count='x', top5_count=2, count=9, loss=1))])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / 'evaluation.json').write_text(content)
    with pytest.raises(IEBNZooError, match='cannot read .*evaluation.json'):
        read_evaluation(tmp_path)
