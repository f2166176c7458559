"""A folded network is fine-tuned as a run of ``train`` would, and an interrupted fine-tuning goes on."""
import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from iebn_zoo.cli import main
from iebn_zoo.data.holdout import held_out_split
from iebn_zoo.data.images import open_images
from iebn_zoo.hub.convert.tuning_place import TuningPlace
from iebn_zoo.hub.package.check import check_directory
from iebn_zoo.hub.published.add import add
from iebn_zoo.hub.published.folder import read_folder
from iebn_zoo.hub.published.index import index
from iebn_zoo.training.engine.run import Run
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.util.errors import IEBNZooError
from tests.hub.convert.test_fold import ARGV, prepared
from tests.support.hub.converting import FOLDED, convert, iebn_network, leftovers, load, saved
from tests.support.hub.exported import card_data, make_export
from tests.support.hub.runs import make_run
from tests.support.paths import ROOT
from tests.support.training.datasets import CLASSES, write_folder

pytestmark = pytest.mark.usefixtures('warm_python')

TUNED = FOLDED | {'summary.csv', 'curves.png'}


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setattr('iebn_zoo.hub.convert.directory.reload_fresh', lambda made: check_directory(made).difference)


@pytest.fixture(scope='module')
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp('recipe') / 'tune.yaml'
    path.write_text('lr: 0.02\nbatch_size: 16\nmomentum: 0.8\nepochs: 90\nmodel: resnet50\nwarmup_epochs: 5\n')
    return path


@pytest.fixture(scope='module')
def iebn_file(tmp_path_factory):
    return saved(iebn_network(), tmp_path_factory.mktemp('iebn') / 'net.pth')


@pytest.fixture
def argv(iebn_file, image_folder, recipe):
    given = ARGV.index('-b')  # a batch size of the command would count for the fine-tuning
    return ['--checkpoint', iebn_file, *ARGV[:given], *ARGV[given + 2:], '--data-dir', image_folder, '--tune-epochs', 2,
            '--tune-config', recipe]


def report_of(directory):
    return json.loads((directory / 'fold_report.json').read_text())


def test_the_weights_are_those_of_a_run_from_the_folded_network(tmp_path, argv, image_folder, capsys):
    tuned, folded, run = tmp_path / 'tuned', tmp_path / 'folded', tmp_path / 'run'
    code, out, err = convert(capsys, *argv, '--output', tuned)
    assert code == 0, err
    assert set(os.listdir(tuned)) == TUNED and leftovers(tmp_path) == ['tuned']
    code, _, err = convert(capsys, *argv[:argv.index('--tune-epochs')], '--output', folded)
    assert code == 0, err
    train = ['train', '--model', f'local-dir:{folded}', '--pretrained', '--data-dir', image_folder, '--epochs', 2,
             '--lr', 0.02, '-b', 16, '--momentum', 0.8, '-j', 0, '--device', 'cpu', '--sched-on-updates']
    assert main(list(map(str, [*train, '--output', run]))) == 0
    expected, own, before = (load_checkpoint(run / LAST)['state_dict'], load(tuned).state_dict(),
                             load(folded).state_dict())
    assert all(torch.equal(own[name], expected[name]) for name in expected) and own.keys() == expected.keys()
    assert not torch.equal(own['conv1.weight'], before['conv1.weight'])
    assert (tuned / 'summary.csv').read_text() == (run / 'summary.csv').read_text()
    capsys.readouterr()


def test_report_and_card_say_what_was_measured_of_the_tuned_weights(tmp_path, argv, image_folder, capsys):
    tuned = tmp_path / 'tuned'
    code, out, err = convert(capsys, *argv, '--output', tuned)
    assert code == 0, err
    report = report_of(tuned)
    x, targets = prepared(open_images('', str(image_folder), False), range(21))
    with torch.no_grad():
        before, after = iebn_network()(x).argmax(1), load(tuned)(x).argmax(1)
    found = report['tuning']['agreement']
    assert found['correct_original'] == report['agreement']['correct_original'] == int((before == targets).sum())
    assert found['correct_tuned'] == int((after == targets).sum()) and found['labelled_images'] == 21
    assert found['same_top1'] == int((before == after).sum())
    rows = list(csv.DictReader((tuned / 'summary.csv').read_text().splitlines()))
    assert len(rows) == 2 and float(rows[1]['eval_top1']) == pytest.approx(100 * found['accuracy_tuned'])
    assert (report['tuning']['epochs'], report['tuning']['seed']) == (2, 42)
    assert report['tuning']['lr'] == pytest.approx(0.02)
    assert report['tuning']['settings']['batch_size'] == '16' and 'model' not in report['tuning']['settings']
    text = (tuned / 'README.md').read_text()
    assert card_data(text).eval_results[0].metric_value == round(100 * found['accuracy_tuned'], 2)
    assert ('After the fold it was fine-tuned for 2 epochs as a BatchNorm network, on an image folder, train split, 48 '
            'images.') in text and '![loss and top-1' in text
    row = next(line for line in text.splitlines() if line.startswith('| top-1 accuracy (IEBN: '))
    assert row.endswith(f'| **{100 * found["accuracy_tuned"]:.2f} % ({found["correct_tuned"]})** |')
    assert f"| {100 * report['agreement']['accuracy_folded']:.2f} % ({report['agreement']['correct_folded']}) |" in row
    assert (f'2 epochs of fine-tuning at lr 0.02: accuracy {100 * found["accuracy_original"]:.2f} % with gates, '
            f'{100 * report["agreement"]["accuracy_folded"]:.2f} % folded, {100 * found["accuracy_tuned"]:.2f} % '
            f'fine-tuned (of 21 images)') in out
    assert str(tmp_path) not in text + json.dumps(report)


def test_an_interrupted_one_goes_on_with_the_same_bits(tmp_path, argv, capsys, monkeypatch):
    assert convert(capsys, *argv, '--output', tmp_path / 'whole')[0] == 0
    real, output = Run._epoch, tmp_path / 'out'

    def interrupted(run, log):
        if run.position.epoch == 1:
            raise KeyboardInterrupt
        real(run, log)
    with monkeypatch.context() as patch:
        patch.setattr(Run, '_epoch', interrupted)
        code, out, err = convert(capsys, *argv, '--output', output)
    assert code == 130 and 'continue with the same command (state in ' in out, err
    assert leftovers(tmp_path) == ['out.tuning', 'whole']
    settings = json.loads((tmp_path / 'out.tuning' / 'settings.json').read_text())
    assert settings['decay_epochs'] == 90  # as earlier versions wrote it, whose fine-tunings go on
    for flags, said in ((['--tune-lr', 0.5], '--tune-lr was 0.02 and is 0.5'),
                        (['--calibration-images', 3], '--calibration-images was 2048 and is 3'),
                        (['-b', 12], '--batch-size was 16 and is 12'),
                        (['--img-size', 48], 'its images were prepared otherwise'),
                        (['--mean', .1, .1, .1], 'its images were prepared otherwise')):
        code, _, err = convert(capsys, *argv, *flags, '--output', output)
        assert code == 2 and f'holds an interrupted fine-tuning with other settings: {said}' in err, err
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:  # gates and comparison stand there
        patch.setattr('iebn_zoo.hub.convert.tune.fold', None)
        code, out, err = convert(capsys, *argv, '--output', 'out')  # the same place by another name
    assert code == 0 and 'at epoch 1, step 0' in out and 'note: the folded network' in err, err
    one, other = load(tmp_path / 'whole').state_dict(), load(output).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    for name in ('fold_report.json', 'fold_report.csv', 'gates.png', 'README.md'):
        assert (tmp_path / 'whole' / name).read_bytes() == (output / name).read_bytes()
    assert leftovers(tmp_path) == ['out', 'whole']


@pytest.mark.parametrize('change, more', [
    (None, ['--held-out-images', '5']), ('fold.json', []), ('folded/model.safetensors', [])])
def test_a_fold_that_is_not_the_one_asked_for_is_made_again(tmp_path, argv, capsys, monkeypatch, change, more):
    def interrupted(run, log):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(Run, '_epoch', interrupted)
        assert convert(capsys, *argv, '--output', tmp_path / 'out')[0] == 130
    if change:
        file = tmp_path / 'out.tuning' / change
        file.write_bytes(file.read_bytes()[:-9])
    code, out, err = convert(capsys, *argv, *more, '--output', tmp_path / 'out')
    assert code == 0 and 'note: the folded network' not in err, err
    assert f'agreement on {5 if more else 21} held-out images' in out
    assert report_of(tmp_path / 'out')['agreement']['held_out_images'] == (5 if more else 21)
    assert leftovers(tmp_path) == ['out']


def test_what_is_trained_is_kept_where_the_output_cannot_be_made(tmp_path, argv, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr('iebn_zoo.hub.convert.directory.write_golden', fails)
        assert convert(capsys, *argv, '--output', tmp_path / 'out')[0] == 1
    assert leftovers(tmp_path) == ['out.tuning']
    code, out, err = convert(capsys, *argv, '--output', tmp_path / 'out')
    assert code == 0 and 'at epoch 2, step 0' in out and leftovers(tmp_path) == ['out'], err


def test_the_settings_and_the_classes_are_those_of_the_run(tmp_path, image_folder, capsys):
    labels = ['zebra', *reversed(CLASSES)]  # the folder has three of the classes, in another order
    run = make_run(tmp_path / 'run', labels=labels, ema=False, batch_size=12, lr=0.3, momentum=0.7, mixup=0.2,
                   smoothing=0.1, model_ema=True, gate_stats=True, warmup_epochs=1, drop=0.5)
    code, out, err = convert(
        capsys, '--checkpoint', run / LAST, '--fold', '--tune-epochs', 1, '--data-dir', image_folder, '-j', 0,
        '--device', 'cpu', '--output', tmp_path / 'out')
    assert code == 0, err
    tuning = report_of(tmp_path / 'out')['tuning']
    said = {name: tuning['settings'].get(name) for name in (
        'batch_size', 'momentum', 'mixup', 'smoothing', 'drop', 'model_ema', 'gate_stats', 'warmup_epochs')}
    assert said == dict(batch_size='12', momentum='0.7', mixup='0.2', smoothing='0.1', drop='0.5', model_ema=None,
                        gate_stats=None, warmup_epochs=None)
    assert tuning['lr'] == pytest.approx(0.03)
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['label_names'] == labels and config['num_classes'] == 4
    # training and evaluation number the classes alike
    row, = csv.DictReader((tmp_path / 'out' / 'summary.csv').read_text().splitlines())
    assert float(row['eval_top1']) == pytest.approx(100 * tuning['agreement']['accuracy_tuned'])
    targets = open_images('', str(image_folder), True, class_names=labels).targets()
    assert set(targets) == {1, 2, 3}


def test_images_that_the_run_held_out_are_held_out_again(tmp_path, image_folder, capsys):
    data = image_folder / 'train'  # class folders alone
    run = make_run(tmp_path / 'run', labels=list(CLASSES), ema=False, batch_size=12, holdout=0.25, seed=3)
    code, out, err = convert(
        capsys, '--checkpoint', run / LAST, '--fold', '--tune-epochs', 1, '--data-dir', data, '-j', 0,
        '--device', 'cpu', '--output', tmp_path / 'out')
    assert code == 0, err
    report = report_of(tmp_path / 'out')
    assert report['calibration_images'] == 36 and report['agreement']['held_out_images'] == 12
    assert report['tuning']['settings']['holdout'] == '0.25' and report['tuning']['seed'] == 3
    row, = csv.DictReader((tmp_path / 'out' / 'summary.csv').read_text().splitlines())
    assert float(row['eval_top1']) == pytest.approx(100 * report['tuning']['agreement']['accuracy_tuned'])
    _, held_out = held_out_split(open_images('', str(data), True, whole=True), 0.25, 3)
    x, targets = zip(*(held_out.read(i) for i in range(12)), strict=True)
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())['pretrained_cfg']
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in x])
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ('mean', 'std'))
    with torch.no_grad():
        found = load(tmp_path / 'out')((pixels - mean) / std).argmax(1)
    assert int((found == torch.tensor(targets)).sum()) == report['tuning']['agreement']['correct_tuned']
    args = yaml.safe_load((run / 'args.yaml').read_text())
    (run / 'args.yaml').write_text(yaml.safe_dump({**args, 'holdout': 1.5}))
    code, _, err = convert(capsys, '--checkpoint', run / LAST, '--fold', '--data-dir', data, '--output', tmp_path / 'b')
    assert code == 2 and 'holdout is 1.5 and seed 3' in err


def test_images_held_out_of_a_split_that_the_user_names(tmp_path, image_folder, capsys):
    data = tmp_path / 'data'
    shutil.copytree(image_folder / 'train', data / 'photos')
    run = make_run(tmp_path / 'run', labels=list(CLASSES), ema=False, batch_size=12, holdout=0.25, seed=3,
                   train_split='photos')
    argv = ('--checkpoint', run / LAST, '--fold', '--tune-epochs', 1, '--data-dir', data, '-j', 0, '--device', 'cpu',
            '--output', tmp_path / 'out')
    code, _, err = convert(capsys, *argv)
    assert code == 2 and "out of 'photos', not of the usual training split" in err, err
    assert leftovers(tmp_path) == ['data', 'run']
    code, _, err = convert(capsys, *argv, '--train-split', 'photos')
    assert code == 0, err
    report = report_of(tmp_path / 'out')
    assert report['calibration_images'] == 36 and report['agreement']['held_out_images'] == 12
    assert report['data']['calibration_split'] == 'photos'
    settings = json.loads((tmp_path / 'out' / 'fold_report.json').read_text())['tuning']['settings']
    assert settings['train_split'] == 'photos' and settings['holdout'] == '0.25'
    code, _, err = convert(capsys, '--checkpoint', run / LAST, '--to-bn', '--train-split', 'photos', '--output',
                           tmp_path / 'b')
    assert code == 2 and '--train-split are for --fold' in err


def test_grey_images(tmp_path, image_folder, capsys):
    run = make_run(tmp_path / 'run', labels=list(CLASSES), ema=False, in_chans=1)
    code, out, err = convert(
        capsys, '--checkpoint', run / LAST, '--fold', '--tune-epochs', 1, '--data-dir', image_folder, '-j', 0, '-b', 9,
        '--device', 'cpu', '--output', tmp_path / 'out')
    assert code == 0, err
    assert load(tmp_path / 'out').get_parameter('conv1.weight').shape[1] == 1


@pytest.mark.parametrize('change, named', [
    (['--tune-epochs', 0], '--tune-epochs is 0, expected at least 1'),
    (['--tune-lr', 0], '--tune-lr is 0.0, expected above 0'),
    (['--tune-config', 'nothing'], 'no recipe at nothing.'),
])
def test_mistakes(tmp_path, argv, capsys, change, named):
    code, _, err = convert(capsys, *argv, '--output', tmp_path / 'out', *change)
    assert code == 2 and named in err and leftovers(tmp_path) == [], err
    assert len(err.strip().splitlines()) <= 3


@pytest.mark.parametrize('flags, named', [
    (['--tune-epochs', 1], '--tune-epochs is for the network that --fold makes'),
    (['--tune-lr', .1, '--to-bn'], '--tune-lr is for the network that --fold makes'),
    (['--tune-lr', .1, '--fold', '--data-dir', '.'], 'no --tune-epochs says how long'),
    (['--tune-config', 'digits', '--fold', '--data-dir', '.'], 'no --tune-epochs says how long'),
])
def test_flags_that_do_not_belong_together(tmp_path, iebn_file, capsys, flags, named):
    code, _, err = convert(capsys, '--checkpoint', iebn_file, *flags, '--output', tmp_path / 'out')
    assert code == 2 and named in err and leftovers(tmp_path) == []


def test_a_setting_of_a_wrong_kind_in_the_run(tmp_path, image_folder, capsys):
    run = make_run(tmp_path / 'run', labels=list(CLASSES), ema=False)
    args = yaml.safe_load((run / 'args.yaml').read_text())
    (run / 'args.yaml').write_text(yaml.safe_dump({**args, 'momentum': 'much'}))
    code, _, err = convert(
        capsys, '--checkpoint', run / LAST, '--fold', '--tune-epochs', 1, '--data-dir', image_folder, '-j', 0,
        '--output', tmp_path / 'out')
    assert code == 2 and "args.yaml: momentum is 'much', expected a number" in err and leftovers(tmp_path) == ['run']


def test_another_directory_at_the_place_of_the_checkpoints(tmp_path, argv, capsys):
    place = write_folder(tmp_path / 'out.tuning', train=1, test=1)
    before = sorted(place.rglob('*'))
    code, _, err = convert(capsys, *argv, '--output', tmp_path / 'out')
    assert code == 2 and 'holds test, which no fine-tuning made' in err and sorted(place.rglob('*')) == before
    (tmp_path / 'b.tuning' / 'run').mkdir(parents=True)  # a run of somebody's own
    (tmp_path / 'b.tuning' / 'run' / 'last.pth.tar').write_text('mine')
    code, _, err = convert(capsys, *argv, '--output', tmp_path / 'b')
    assert code == 2 and 'no settings.json beside it' in err
    assert (tmp_path / 'b.tuning' / 'run' / 'last.pth.tar').read_text() == 'mine'


@pytest.mark.parametrize('setting, flags, said', [
    ('opt: foo\nbatch_size: 8', [], '--opt foo'), ('batch_size: 64', [], 'make no batch of 64'),
    ('aa: nonsense\nbatch_size: 8', [], 'nonsense'),
    ('mixup: 0.2\nbatch_size: 15', [], 'expected an even one'), ('lr: 0.1', ['-b', 49], 'make no batch of 49'),
    ('lr: 0.1', ['--val-split', 'train'], 'the images of both splits'),
])
def test_what_the_training_would_refuse_is_found_before_the_fold(tmp_path, argv, capsys, monkeypatch, setting, flags,
                                                                 said):
    monkeypatch.setattr('iebn_zoo.commands.hub.convert.fold', None)
    (tmp_path / 'tune.yaml').write_text(setting)
    code, _, err = convert(
        capsys, *argv, '--tune-config', tmp_path / 'tune.yaml', *flags, '--output', tmp_path / 'out')
    assert code == 2 and said in err and leftovers(tmp_path) == ['tune.yaml'], err


def test_splits_of_the_same_names_and_sizes_are_two_splits(tmp_path, iebn_file, image_folder, capsys):
    shutil.copytree(image_folder / 'test', tmp_path / 'data' / 'train')
    shutil.copytree(image_folder / 'test', tmp_path / 'data' / 'val')
    code, _, err = convert(
        capsys, '--checkpoint', iebn_file, *ARGV, '--data-dir', tmp_path / 'data', '--output', tmp_path / 'out')
    assert code == 0, err


def test_a_training_that_diverged_is_no_obstacle(tmp_path, argv, capsys):
    code, _, err = convert(capsys, *argv, '--tune-lr', 1e30, '--output', tmp_path / 'out')
    assert code == 1 and 'the fine-tuning stopped: ' in err and '--tune-lr' in err, err
    code, _, err = convert(capsys, *argv, '--output', tmp_path / 'out')  # no epoch was finished: nothing is lost
    assert code == 0 and leftovers(tmp_path) == ['out'], err


def test_overwrite_gives_up_an_interrupted_one(tmp_path, argv, capsys, monkeypatch):
    make_export(tmp_path / 'out')
    with monkeypatch.context() as patch:
        patch.setattr('iebn_zoo.hub.convert.directory.write_golden', fails)
        assert convert(capsys, *argv, '--overwrite', '--output', tmp_path / 'out')[0] == 1
    assert leftovers(tmp_path) == ['out', 'out.tuning']
    code, out, err = convert(capsys, *argv, '--tune-lr', 0.03, '--overwrite', '--output', tmp_path / 'out')
    assert code == 0 and 'resuming' not in out and leftovers(tmp_path) == ['out'], err
    assert report_of(tmp_path / 'out')['tuning']['lr'] == 0.03


def test_a_second_process_waits_outside(tmp_path, argv, capsys):
    place = TuningPlace(tmp_path / 'out')
    code = ('import sys; from iebn_zoo.cli import main; sys.exit(main(sys.argv[1:]))')
    with place.held():
        done = subprocess.run([sys.executable, '-c', code, 'convert', *map(str, argv), '--output', tmp_path / 'out'],
                              capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 2 and f'another run is writing {place.path}' in done.stderr, done.stderr
        assert place.path.is_dir()
    assert leftovers(tmp_path) == []


def test_what_of_a_recipe_is_not_used_is_named(tmp_path, argv, capsys):
    _, _, err = convert(capsys, *argv, '--output', tmp_path / 'out')
    assert 'tune.yaml: model, epochs, warmup_epochs are not used for the fine-tuning' in err


def test_a_tuned_directory_passes_every_check_in_a_fresh_process(tmp_path, argv, capsys, monkeypatch):
    monkeypatch.undo()
    code, out, err = convert(capsys, *argv, '--output', tmp_path / 'out')
    assert code == 0 and 'loaded back in a fresh process' in out, err
    assert main(['verify', str(tmp_path / 'out')]) == 0
    cards = tmp_path / 'cards'
    cards.mkdir()
    made = add(cards, tmp_path / 'out', 'tuned')
    assert made.name == 'resnet18.tuned' and (made / 'summary.csv').is_file()
    assert (made / 'README.md').read_text() == read_folder(made).card()
    assert 'BatchNorm, folded and fine-tuned' in index([read_folder(made)])


def fails(*args, **kwargs):
    raise IEBNZooError('no space left.\nFree some.')
