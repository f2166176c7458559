"""What training does with the user's own images: whole commands."""
import json
import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw

from iebn_zoo.commands.train import main as train
from iebn_zoo.commands.validate import main as validate
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint, save_checkpoint
from iebn_zoo.util.csv_files import read_csv
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.paths import ROOT
from tests.support.training.datasets import CLASSES, flags, write_folder

SMALL = ('--model-kwargs', 'layers=(1,1,1)', '--img-size', '16', '--batch-size', '12')


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / 'data', train=5, test=4, size=16)


@pytest.fixture
def half(folder, tmp_path):
    """A run of two epochs that has made one."""
    run = tmp_path / 'run'
    train(flags(folder, run, *SMALL))
    (run / 'checkpoint-0.pth.tar').replace(run / LAST)
    for path in run.glob('*.pth.tar'):
        if path.name != LAST:
            path.unlink()
    return run


def resume(folder, run, *more):
    train(flags(folder, run, *SMALL, '--resume', *more))


def test_a_moved_data_set_is_the_same(folder, half, tmp_path):
    resume(shutil.move(folder, tmp_path / 'elsewhere'), half)
    assert len(load_checkpoint(half / LAST)['rows']) == 2


def renamed_folder(root):
    for split in ('train', 'test'):
        (root / split / 'ant').rename(root / split / 'zebra')


def replaced_image(root):
    Image.new('RGB', (16, 16)).save(root / 'train' / 'ant' / 'ant_000.png')


def renamed_image(root):
    (root / 'train' / 'ant' / 'ant_000.png').rename(root / 'train' / 'ant' / 'new.png')


def shrunk_test_set(root):
    (root / 'test' / 'ant' / 'ant_000.png').unlink()


def fewer_training_images(root):
    (root / 'train' / 'ant' / 'ant_000.png').unlink()


@pytest.mark.parametrize('change, said', [
    (renamed_folder, 'class 0: ant -> bee'), (replaced_image, 'training images: not the same names, order and sizes'),
    (renamed_image, 'training images: not the same'), (shrunk_test_set, 'evaluation images: not the same'),
    (fewer_training_images, 'training images: 15 -> 14')], ids=lambda v: getattr(v, '__name__', ''))
def test_other_images_are_refused_like_a_changed_flag(folder, half, change, said, capsys):
    before = (half / LAST).read_bytes()
    change(folder)
    with pytest.raises(UsageError, match=f'other settings: .*{said}') as e:
        resume(folder, half)
    assert '--allow-recipe-change' in str(e.value) and (half / LAST).read_bytes() == before
    resume(folder, half, '--allow-recipe-change')
    assert said in capsys.readouterr().out


def test_a_checkpoint_that_says_nothing_of_its_images_is_resumed(folder, half):
    old = load_checkpoint(half / LAST)
    del old['data']
    save_checkpoint(half / LAST, old)
    shrunk_test_set(folder)
    resume(folder, half)


def test_a_folder_of_class_folders_with_a_share_held_out(folder, tmp_path, capsys):
    whole = folder / 'train'
    with pytest.raises(UsageError, match='its folders look like classes.*\n.*--holdout'):
        train(flags(whole, tmp_path / 'run', *SMALL))
    assert not (tmp_path / 'run').exists()
    train(flags(whole, tmp_path / 'run', *SMALL, '--batch-size', '6', '--holdout', '0.2'))
    last = load_checkpoint(tmp_path / 'run' / LAST)
    assert last['label_names'] == list(CLASSES)
    assert (last['num_train_images'], last['num_eval_images']) == (12, 3)
    capsys.readouterr()
    validate(['--checkpoint', str(tmp_path / 'run' / LAST), '--data-dir', str(whole), '--val-split', '.'])
    assert json.loads(capsys.readouterr().out)['count'] == 15


def held_out(checkpoint, data_dir, *more):
    validate(['--held-out', '--checkpoint', str(checkpoint), '--data-dir', str(data_dir), *more])


def test_what_a_training_held_out_can_be_measured_again(folder, tmp_path, capsys):
    whole, run = folder / 'train', tmp_path / 'run'
    train(flags(whole, run, *SMALL, '--batch-size', '6', '--holdout', '0.4', '--seed', '5'))
    capsys.readouterr()
    held_out(run / LAST, shutil.copytree(whole, tmp_path / 'elsewhere'))
    found, last = json.loads(capsys.readouterr().out), read_csv(run / 'summary.csv', {})[-1]
    assert found['held_out'] is True and found['count'] == 6
    assert (found['loss'], found['top1']) == pytest.approx((last['eval_loss'], last['eval_top1']), rel=1e-5)
    (whole / CLASSES[0] / 'one more.png').write_bytes(next((whole / CLASSES[0]).iterdir()).read_bytes())
    with pytest.raises(UsageError, match='are not those of last.pth.tar: their names, sizes or number differ'):
        held_out(run / LAST, whole)
    with pytest.raises(UsageError, match='--held-out and --val-split test contradict'):
        held_out(run / LAST, folder, '--val-split', 'test')

    def changed(args=(), without=(), **fields):
        old = load_checkpoint(run / LAST)
        fields = {**old, 'args': {**old['args'], **dict(args)}, **fields}
        save_checkpoint(tmp_path / 'changed.pth.tar', {k: v for k, v in fields.items() if k not in without})
        return tmp_path / 'changed.pth.tar'

    for args, said in ((dict(holdout=1.5), 'holdout is 1.5 and seed 5'), (dict(holdout='x' * 999), "holdout is 'xxx"),
                       (dict(seed=None), 'seed None'), (dict(seed=10 ** 400), 'seed 1000'),
                       (dict(seed=True), 'seed True'),
                       (dict(train_split='/etc'), "out of '/etc', not of the usual training split")):
        with pytest.raises(UsageError, match=f'^changed.pth.tar: .*{said}'):
            held_out(changed(args), whole)
    with pytest.raises(UsageError, match='does not say that its training held images out'):
        held_out(changed(dict(holdout=None)), whole)
    with pytest.raises(UsageError, match='does not say which images it was trained on'):
        held_out(changed(without=('data', 'num_train_images')), whole)
    with pytest.raises(UsageError, match='are not those of changed.pth.tar'):  # by their number
        held_out(changed(without=('data',)), whole)


def test_what_was_held_out_of_another_split_is_measured_where_the_user_names_it(folder, tmp_path, capsys):
    run = tmp_path / 'run'
    shutil.copytree(folder / 'train', folder / 'small')
    train(flags(folder, run, *SMALL, '--batch-size', '6', '--holdout', '0.4', '--train-split', 'small'))
    capsys.readouterr()
    held_out(run / LAST, folder, '--train-split', 'small')
    found, last = json.loads(capsys.readouterr().out), read_csv(run / 'summary.csv', {})[-1]
    assert found['count'] == 6 and found['top1'] == pytest.approx(last['eval_top1'], rel=1e-5)
    for given, said in (((), "held images out of 'small', not of the usual training split"),
                        (('--train-split', 'train'), "out of 'small', not of --train-split train")):
        with pytest.raises(UsageError, match=said):
            held_out(run / LAST, folder, *given)
    with pytest.raises(UsageError, match='--train-split small is for --held-out'):
        validate(['--checkpoint', str(run / LAST), '--data-dir', str(folder), '--train-split', 'small'])


def test_a_training_that_held_nothing_out(folder, half):
    with pytest.raises(UsageError, match='last.pth.tar does not say that its training held images out'):
        held_out(half / LAST, folder)


def test_a_processor_without_bfloat16_is_named_each_time(folder, tmp_path, monkeypatch, capsys):
    note = 'note: --amp: this processor has no instructions for bfloat16'
    for has in (True, False):
        monkeypatch.setattr('iebn_zoo.training.engine.evaluate.has_bfloat16_instructions', lambda has=has: has)
        run = tmp_path / str(has)
        train(flags(folder, run, *SMALL, '--amp', '--epochs', '1'))
        assert (note in capsys.readouterr().out) is not has
        train(flags(folder, run, *SMALL, '--amp', '--epochs', '2', '--resume', '--allow-recipe-change'))
        assert (note in capsys.readouterr().out) is not has
        validate(['--checkpoint', str(run / LAST), '--data-dir', str(folder), '--amp'])
        assert (note in capsys.readouterr().err) is not has


def test_another_split_can_be_trained_on(folder, tmp_path):
    shutil.copytree(folder / 'test', folder / 'small')
    train(flags(folder, tmp_path / 'run', *SMALL, '--train-split', 'small'))
    assert load_checkpoint(tmp_path / 'run' / LAST)['num_train_images'] == 12


@pytest.mark.parametrize('batch, left', [(8, 7), (12, 3), (7, 1), (5, 0)])
def test_it_is_said_where_an_epoch_leaves_out_a_large_share(folder, tmp_path, batch, left, capsys):
    train(flags(folder, tmp_path / 'run', *SMALL, '--batch-size', str(batch), '--epochs', '1'))
    out = capsys.readouterr().out
    assert (f'note: each epoch leaves out {left} of 15 training images' in out) == ('leaves out' in out) == (left > 1)


def test_what_is_passed_over_is_said_in_one_line(folder, tmp_path, capsys):
    (folder / 'train' / 'ant' / 'notes.txt').write_text('x')
    (folder / 'train' / 'labels.csv').write_text('x')
    train(flags(folder, tmp_path / 'run', *SMALL, '--epochs', '1'))
    notes = [line for line in capsys.readouterr().err.splitlines() if 'skipped' in line]
    assert len(notes) == 1 and 'skipped 2 files of other kinds (1 .txt, 1 .csv)' in notes[0]


def write_shapes(root, size):
    """Two classes of long images that only the shape in their middle tells apart."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 12), ('val', 6)):
        for name in ('disc', 'bar'):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 60, (*size[::-1], 3), np.uint8))
                x, y, r = size[0] // 2, size[1] // 2, min(size) // 3
                box = (x - r, y - r, x + r, y + r) if name == 'disc' else (x - r // 4, y - r, x + r // 4, y + r)
                getattr(ImageDraw.Draw(image), 'ellipse' if name == 'disc' else 'rectangle')(box, fill='white')
                image.save(root / split / name / f'{i}.png')
    return root


def test_images_that_are_not_square_are_learned_as_they_are_measured(tmp_path):
    data = write_shapes(tmp_path / 'data', (160, 40))
    train(flags(data, tmp_path / 'run', '--model-kwargs', 'layers=(1,1,1)', 'start=bn', '--img-size', '32',
                '--batch-size', '8', '--epochs', '8', '--lr', '0.05'))
    assert load_checkpoint(tmp_path / 'run' / LAST)['rows'][-1]['eval_top1'] == 100


def test_formats_side_by_side(folder, tmp_path):
    for i, kind in enumerate(('webp', 'bmp', 'tiff', 'gif', 'jfif')):
        path = folder / 'train' / 'ant' / f'ant_{i:03d}.png'
        Image.open(path).save(path.with_suffix(f'.{kind}'), 'jpeg' if kind == 'jfif' else kind)
        path.unlink()
    train(flags(folder, tmp_path / 'run', *SMALL, '--epochs', '1'))
    assert load_checkpoint(tmp_path / 'run' / LAST)['num_train_images'] == 15


@pytest.mark.parametrize('model', [
    'iebn_resnet20_cifar.fashion_mnist', 'Local-Dir:hub_cards/iebn_resnet20_cifar.fashion_mnist'])
@pytest.mark.parametrize('more', [(), ('--no-device-data',)])
def test_weights_of_grey_images_are_fine_tuned_on_grey_images(folder, tmp_path, monkeypatch, model, more):
    monkeypatch.chdir(ROOT)
    train(flags(folder, tmp_path / 'run', '--model', model, '--pretrained', '--epochs', '1', '--batch-size', '12',
                *more))
    last = load_checkpoint(tmp_path / 'run' / LAST)
    assert last['data_config']['input_size'][0] == 1 and last['args']['in_chans'] == 1
    assert last['state_dict']['conv1.weight'].shape[1] == 1 and last['num_train_images'] == 15


def test_a_run_does_not_go_among_its_images(folder, tmp_path):
    for output in (folder / 'train' / 'run', folder / 'test'):
        with pytest.raises(UsageError, match=f'--output {output} lies in the folder of the images, {folder}'):
            train(flags(folder, output, *SMALL))
    (tmp_path / 'link').symlink_to(folder / 'train')
    with pytest.raises(UsageError, match='lies in the folder of the images'):
        train(flags(folder / 'train', tmp_path / 'link' / 'run', *SMALL, '--holdout', '0.2', '--batch-size', '6'))
    assert not [*folder.rglob('run')] and len([*folder.rglob('*.png')]) == 27
    train(flags(folder, folder / 'run', *SMALL, '--epochs', '1'))  # beside the splits


def test_what_an_evaluation_does_not_see_is_said(folder, tmp_path, capsys):
    for image in [*(folder / 'train' / 'ant').iterdir()][1:]:
        image.unlink()
    train(flags(folder / 'train', tmp_path / 'run', *SMALL, '--holdout', '0.2', '--batch-size', '6', '--epochs', '1'))
    assert ('note: the evaluation has no images of 1 of 3 classes (ant): 0.2 of their training images rounds to none'
            in capsys.readouterr().err)
    shutil.rmtree(folder / 'test' / 'bee')
    train(flags(folder, tmp_path / 'other', *SMALL, '--batch-size', '6', '--epochs', '1'))
    assert 'note: the evaluation has no images of 1 of 3 classes (bee)\n' in capsys.readouterr().err


def test_skipped_images_are_told_and_an_evaluation_of_none_is_an_error(folder, tmp_path, capfd):
    def spoil(split, *names):
        for name in names:
            for image in (folder / split / name).iterdir():
                image.write_bytes(b'no image')

    spoil('train', 'ant')
    spoil('test', 'bee')
    train(flags(folder, tmp_path / 'run', *SMALL, '--skip-corrupt'))
    err = capfd.readouterr().err
    assert err.count('note: --skip-corrupt: training: 5 of 15 images cannot be decoded, among them all images of the '
                     'class ant (so far)\n') == 1
    assert err.count('note: --skip-corrupt: evaluation: 4 of 12 images cannot be decoded, among them') == 1
    assert err.count('skipped: cannot decode the image') == 9
    validate(['--checkpoint', str(tmp_path / 'run' / LAST), '--data-dir', str(folder), '--skip-corrupt'])
    shown = capfd.readouterr()
    assert json.loads(shown.out)['count'] == 8 and 'note: --skip-corrupt: 4 of 12 images cannot' in shown.err
    spoil('test', 'ant', 'cat')
    for command in (lambda: train(flags(folder, tmp_path / 'other', *SMALL, '--skip-corrupt')), lambda: validate(
            ['--checkpoint', str(tmp_path / 'run' / LAST), '--data-dir', str(folder), '--skip-corrupt'])):
        with pytest.raises(IEBNZooError, match='none of the images to evaluate on could be decoded'):
            command()
