"""The attacks and measures in training, through the command line."""
import csv
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from iebn_zoo.commands.train import main as train
from iebn_zoo.data.images import open_images
from iebn_zoo.data.loader import make_loader
from iebn_zoo.studies.noise.callbacks import GateStatistics
from iebn_zoo.studies.noise.log import COLUMNS
from iebn_zoo.training.callbacks.base import create_extensions
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.engine.stop import Stopped
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.util.errors import UsageError
from tests.support.training.datasets import flags

MEASURES = ('--batch-noise', '4', '--gate-stats')


def weights(run):
    return load_checkpoint(run / LAST)['state_dict']


def same(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope='module')
def attacks(grey_folder):
    return ('--norm-noise', '0.8', '0.3', '--mix-dataset', str(grey_folder), '--mix-count', '4')


@pytest.fixture(scope='module')
def plain(image_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp('plain') / 'run'
    train(flags(image_folder, run, '--drop', '0.3'))
    return run


@pytest.fixture(scope='module')
def attacked(image_folder, attacks, tmp_path_factory):
    run = tmp_path_factory.mktemp('attacked') / 'run'
    train(flags(image_folder, run, '--drop', '0.3', '--model-ema', *attacks, *MEASURES))
    return run


def test_measures_leave_the_bits_of_training(plain, image_folder, tmp_path):
    train(flags(image_folder, tmp_path / 'run', '--drop', '0.3', *MEASURES))
    assert same(plain, tmp_path / 'run')
    summary = rows(tmp_path / 'run' / 'summary.csv')
    assert [r['eval_top1'] for r in summary] == [r['eval_top1'] for r in rows(plain / 'summary.csv')]


def test_gates_are_looked_at_on_images_of_all_classes_the_same_in_every_process(image_folder, data_args):
    images, args = open_images('', str(image_folder), False), data_args('--batch-size', '6')
    config = dict(input_size=[3, 32, 32], mean=[0.5] * 3, std=[0.25] * 3, interpolation='bilinear', crop_pct=1.0,
                  crop_mode='center')
    device, seen = torch.device('cpu'), []
    for rank, world in ((0, 1), (29, 30)):  # the last of more processes than images has none to evaluate
        loader = make_loader(images, args, config, device, False, rank, world)
        statistics = GateStatistics()
        statistics.prepare(SimpleNamespace(args=args, data_config=config, device=device, eval_loader=loader))
        seen.append(statistics.images)
    chosen = [images.read(i) for i in (0, 4, 8, 12, 16, 20)]
    assert {label for _, label in chosen} == {0, 1, 2}
    expected = torch.stack([(torch.from_numpy(np.array(image)).float() / 255 - 0.5) / 0.25 for image, _ in chosen])
    for batch in seen:
        torch.testing.assert_close(batch, expected.permute(0, 3, 1, 2), atol=1e-5, rtol=0)


def test_what_an_attacked_run_leaves(attacked, plain):
    summary, layers = rows(attacked / 'summary.csv'), rows(attacked / 'batch_noise.csv')
    assert set(summary[0]) >= {'batch_noise', 'gate_mean_stage1', 'gate_spread_stage3', 'gate_instance_spread_stem'}
    assert list(layers[0]) == list(COLUMNS) and [r['epoch'] for r in layers] == ['0'] * 21 + ['1'] * 21
    for epoch, row in enumerate(summary):
        ratios = [float(r['batch_noise']) for r in layers if r['epoch'] == str(epoch)]
        assert float(row['batch_noise']) == pytest.approx(sum(ratios) / 21) and min(ratios) > 0
    assert weights(attacked).keys() == weights(plain).keys()


@pytest.mark.parametrize('which', [slice(0, 3), slice(3, None)], ids=['norm_noise', 'mix_dataset'])
def test_each_attack_alone_changes_training(which, attacks, plain, image_folder, tmp_path):
    train(flags(image_folder, tmp_path / 'run', '--drop', '0.3', '--epochs', '1', *attacks[which]))
    changed, clean = weights(tmp_path / 'run'), load_checkpoint(plain / 'checkpoint-0.pth.tar')['state_dict']
    assert not torch.equal(changed['bn1.bn.running_mean'], clean['bn1.bn.running_mean'])


def test_a_resumed_attack_equals_the_uninterrupted_one(attacked, image_folder, attacks, tmp_path):
    half = tmp_path / 'half'
    half.mkdir()
    shutil.copy(attacked / 'checkpoint-0.pth.tar', half / LAST)
    train(flags(image_folder, half, '--drop', '0.3', '--model-ema', *attacks, *MEASURES, '--resume'))
    assert same(attacked, half)
    assert (half / 'batch_noise.csv').read_text() == (attacked / 'batch_noise.csv').read_text()
    assert rows(half / 'summary.csv') == rows(attacked / 'summary.csv')


def test_a_resume_names_other_images_of_the_attack(attacked, image_folder, grey_folder, attacks, tmp_path, capsys):
    other, run = shutil.copytree(grey_folder, tmp_path / 'grey'), tmp_path / 'run'
    run.mkdir()
    shutil.copy(attacked / 'checkpoint-0.pth.tar', run / LAST)
    image = next(iter(sorted(other.rglob('train/**/*.png'))))
    shutil.copy(image, image.with_name('one_more.png'))
    argv = flags(image_folder, run, '--drop', '0.3', '--model-ema', *attacks, *MEASURES, '--resume')
    argv[argv.index('--mix-dataset') + 1] = str(other)
    with pytest.raises(UsageError, match='--mix-dataset images: not the same names, order and sizes'):
        train(argv)
    train([*argv, '--allow-recipe-change'])
    assert '--mix-dataset images: not the same' in capsys.readouterr().out


def test_the_file_of_batch_noise_is_that_of_the_checkpoint(attacked, image_folder, attacks, tmp_path):
    run, whole = tmp_path / 'run', (attacked / 'batch_noise.csv').read_text()
    run.mkdir()
    argv = flags(image_folder, run, '--drop', '0.3', '--model-ema', *attacks, *MEASURES, '--resume')
    shutil.copy(attacked / LAST, run / LAST)  # killed before the file was written
    train(argv)
    assert (run / 'batch_noise.csv').read_text() == whole
    with pytest.raises(Stopped):  # gone back, and stopped before the next epoch ends
        train([*argv, str(attacked / 'checkpoint-0.pth.tar'), '--stop-after', '1e-9'])
    assert (run / 'batch_noise.csv').read_text() == ''.join(whole.splitlines(keepends=True)[:1 + 21])


def test_mixup_mixes_the_first_dataset_only_and_the_loss_counts_it_only(image_folder, attacks, tmp_path):
    train(flags(image_folder, tmp_path / 'run', '--epochs', '1', '--mixup', '0.5', '--channels-last', *attacks[3:5],
                '--mix-count', '3'))  # an odd batch: mixup itself would refuse it
    assert math.isfinite(load_checkpoint(tmp_path / 'run' / LAST)['rows'][0]['train_loss'])


def test_attacked_evaluation_is_asked_for_by_name(image_folder, attacks, tmp_path):
    common = ('--epochs', '1', '--norm-noise', '0', '0.5', '--model-ema', '--model-ema-decay', '0.5')
    train(flags(image_folder, tmp_path / 'a', *common))
    train(flags(image_folder, tmp_path / 'b', *common, '--norm-noise-eval'))
    assert same(tmp_path / 'a', tmp_path / 'b')
    a, b = (load_checkpoint(tmp_path / run / LAST)['rows'][0] for run in 'ab')
    assert a['eval_loss'] != b['eval_loss']
    for kind in ('', 'ema_'):
        for name in ('loss', 'top1', 'top5'):  # each has the other's accuracy beside its own
            assert a[f'eval_{kind}attacked_{name}'] == b[f'eval_{kind}{name}']
            assert b[f'eval_{kind}clean_{name}'] == a[f'eval_{kind}{name}']
    assert a['eval_ema_attacked_loss'] != a['eval_attacked_loss']


@pytest.mark.parametrize('more, message', [
    (('--norm-noise-eval',), 'without --norm-noise'),
    (('--mix-count', '3'), '--mix-count without --mix-dataset'),
    (('--mix-dataset', 'x'), '--mix-dataset without --mix-count'),
    (('--mix-dataset', 'nowhere', '--mix-count', '3'), 'nowhere'),
    (('--mix-dataset-name', 'torch/mnist'), '--mix-dataset-name without --mix-dataset'),
    (('--mix-dataset', 'x', '--mix-dataset-name', 'torch/mnist', '--mix-count', '3'),
     'no such directory: x.\nGive --mix-dataset the place of torch/mnist'),
    (('--norm-noise', 'nan', '1'), 'Na nan'),
    (('--norm-noise', '1', '1', '--sync-bn'), 'contradict'),
    (('--batch-noise', '40'), 'expected 2 to 32'),
])
def test_what_does_not_fit_is_said_before_the_directory_is_made(image_folder, tmp_path, more, message):
    with pytest.raises(UsageError, match=message):
        train(flags(image_folder, tmp_path / 'run', *more))
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('flag', [('--norm-noise', '1', '0'), ('--batch-noise', '4')])
@pytest.mark.parametrize('frozen', ['--freeze-stats', '--freeze-backbone'])
def test_frozen_norms_have_no_batch_noise(flag, frozen):
    args = train_parser().parse_args([*flag, frozen, '--pretrained'])
    with pytest.raises(UsageError, match=f'{flag[0]} and {frozen} contradict'):
        create_extensions(args)
