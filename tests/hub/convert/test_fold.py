"""Trained gates are folded into BatchNorm on real images, and every figure of the report is worked out again."""
import csv
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import nn

from iebn_zoo.data.images import open_images
from iebn_zoo.hub.convert.fold_images import ChosenImages
from iebn_zoo.hub.package.check import check_directory
from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from tests.hub.convert.test_convert import loads_without_this_package
from tests.support.hub.converting import FOLDED, KWARGS, convert, iebn_network, leftovers, load, saved
from tests.support.hub.exported import card_data
from tests.support.hub.runs import make_run
from tests.support.training.datasets import CLASSES, write_folder

pytestmark = pytest.mark.usefixtures('warm_python')

ARGV = ['--model', 'iebn_resnet18', '--img-size', 32, '--mean', .4, .4, .4, *KWARGS, '--fold', '-j', 0, '-b', 8,
        '--device', 'cpu']


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr('iebn_zoo.hub.convert.directory.reload_fresh', lambda made: check_directory(made).difference)


@pytest.fixture(scope='module')
def iebn_file(tmp_path_factory):
    return saved(iebn_network(), tmp_path_factory.mktemp('iebn') / 'net.pth')


@pytest.fixture(scope='module')
def folded(iebn_file, image_folder, tmp_path_factory):
    from iebn_zoo.cli import main
    output = tmp_path_factory.mktemp('out') / 'model'
    argv = ['--checkpoint', iebn_file, *ARGV, '--data-dir', image_folder, '--calibration-images', 20]
    assert main(['convert', *map(str, argv), '--output', str(output)]) == 0  # reloads in a fresh process
    return output


def prepared(images, indices):
    """Images as the network's own evaluation prepares them, and their classes."""
    transform = create_transform((3, 32, 32), mean=(.4, .4, .4), std=(0.229, 0.224, 0.225), interpolation='bicubic',
                                 crop_pct=0.95)
    assert not isinstance(transform, tuple)
    pairs = [images.read(i) for i in indices]
    prepared = [torch.as_tensor(transform(image)) for image, _ in pairs]
    return torch.stack(prepared), torch.tensor([target for _, target in pairs])


def gates_of(model, x):
    """(B, C) of each IEBN layer."""
    seen = {}
    hooks = [m.register_forward_pre_hook(
        lambda m, args, n=n: seen.__setitem__(n, torch.sigmoid(m.gate_weight * args[0].mean((2, 3)) + m.gate_bias)))
        for n, m in model.named_modules() if isinstance(m, IEBatchNorm2d)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


def test_it_is_a_plain_network_of_timm(folded):
    assert set(os.listdir(folded)) == FOLDED and loads_without_this_package(folded)
    model = load(folded)
    assert json.loads((folded / 'config.json').read_text())['architecture'] == 'resnet18'
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 13
    with Image.open(folded / 'gates.png') as picture:
        assert picture.format == 'PNG' and min(picture.size) > 300
    text = (folded / 'README.md').read_text()
    assert 'import iebn_zoo' not in text and '![mean and spread' in text and 'liang2020instance' in text


def test_the_gates_are_averaged_over_the_training_images(folded, image_folder):
    original, model = iebn_network(), load(folded)
    train = open_images('', str(image_folder), True)
    x, targets = prepared(train, ChosenImages(train, 20).indices)
    assert set(targets.tolist()) == {0, 1, 2}  # of every class, though the folder is sorted by class
    rows = list(csv.DictReader((folded / 'fold_report.csv').read_text().splitlines()))
    report = json.loads((folded / 'fold_report.json').read_text())
    for row, layer, (name, gates) in zip(rows, report['layers'], gates_of(original, x).items(), strict=True):
        weight, own = (net.get_parameter(f'{name}.weight').detach() for net in (model, original))
        np.testing.assert_allclose(weight, own * gates.mean(0), rtol=1e-4)
        figures = gates.mean(), gates.std(0, correction=0).mean(), gates.mean(0).std(correction=0)
        for key, value in zip(('mean', 'instance_spread', 'channel_spread'), figures, strict=True):
            assert row['layer'] == layer['layer'] == name
            assert float(row[key]) == layer[key] == pytest.approx(value.item(), rel=1e-3)
    assert len(rows) == 9 and report['calibration_images'] == 20 and report['data']['calibration_available'] == 48


def test_agreement_and_accuracy_on_the_held_out_images(folded, image_folder):
    report = json.loads((folded / 'fold_report.json').read_text())['agreement']
    held_out = open_images('', str(image_folder), False)
    x, targets = prepared(held_out, range(len(held_out)))
    with torch.no_grad():
        a, b = (m(x) for m in (iebn_network(), load(folded)))
    assert report['held_out_images'] == report['labelled_images'] == 21
    assert report['same_top1'] == int((a.argmax(1) == b.argmax(1)).sum())
    assert report['max_logit_difference'] == pytest.approx((a - b).abs().max().item(), rel=1e-3)
    assert report['correct_original'] == int((a.argmax(1) == targets).sum())
    assert report['correct_folded'] == int((b.argmax(1) == targets).sum())
    text = (folded / 'README.md').read_text()
    result, = card_data(text).eval_results
    assert result.metric_value == round(100 * report['correct_folded'] / 21, 2)
    assert f'| largest logit difference | {report["max_logit_difference"]:.4g} |' in text
    assert f'| the same top-1 class | {100 * report["top1_agreement"]:.2f} % ({report["same_top1"]}) |' in text


@pytest.mark.parametrize('named', [[], ['--dataset', 'torch/image_folder']], ids=str)
def test_a_run_of_ours_with_more_classes_than_the_folder(tmp_path, image_folder, capsys, in_process, named):
    labels = ['zebra', *CLASSES]  # a folder of three of them is numbered by the network's names
    run = make_run(tmp_path / 'run', labels=labels, ema=True)
    code, out, err = convert(
        capsys, '--checkpoint', run / LAST, '--use-ema', '--fold', '--data-dir', image_folder, '-j', 0,
        '--device', 'cpu', '--held-out-images', 5, '--output', tmp_path / 'out', *named)
    assert code == 0, err
    assert 'gates averaged over 48 images' in out and 'agreement on 5 held-out images' in out
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['architecture'] == 'bn_resnet20_cifar' and config['label_names'] == labels
    text = (tmp_path / 'out' / 'README.md').read_text()
    assert card_data(text).eval_results is None  # of a part of the split only
    assert 'Loading needs the package iebn-zoo' in text and text.count('```python\nimport iebn_zoo') == 4
    ema = load_checkpoint(run / LAST)['state_dict_ema']
    assert torch.equal(load(tmp_path / 'out').get_parameter('conv1.weight'), ema['conv1.weight'])


def test_gated_shortcuts_of_a_plain_state_dict_are_seen(tmp_path, image_folder, capsys, in_process):
    file = saved(iebn_network(gate_downsample=True), tmp_path / 'gated.pth')
    code, out, err = convert(capsys, '--checkpoint', file, *ARGV, '--data-dir', image_folder, '--held-out-images', 3,
                             '--output', tmp_path / 'out')
    assert code == 0 and out.count('.downsample.1 ') == 4, err
    assert 'gate_downsample' not in json.loads((tmp_path / 'out' / 'config.json').read_text())['model_args']


def test_images_that_cannot_be_decoded(tmp_path, iebn_file, capsys, in_process):
    data = write_folder(tmp_path / 'data', train=4, test=3)
    (data / 'test' / 'bee' / 'bee_001.png').write_bytes(b'no image')
    argv = ['--checkpoint', iebn_file, *ARGV, '--data-dir', data, '--output', tmp_path / 'out']
    code, _, err = convert(capsys, *argv)
    assert code == 1 and 'cannot decode the image' in err and leftovers(tmp_path) == ['data']
    code, out, err = convert(capsys, *argv, '--skip-corrupt')
    assert code == 0 and 'agreement on 8 held-out images' in out, err
    assert card_data((tmp_path / 'out' / 'README.md').read_text()).eval_results is None


@pytest.mark.parametrize('change, named', [
    (['--data-dir', 'nowhere'], 'no such directory: nowhere'),
    (['--val-split', 'other'], 'has no other split'),
    (['--dataset', 'imagenet'], "unknown --dataset 'imagenet'"),
    (['--calibration-images', 0], '--calibration-images is 0'),
    (['--held-out-images', -1], '--held-out-images is -1'),
    (['--device', 'tpu'], "unknown --device 'tpu'"),
    (['--mean', .5, .5], '--mean has 2 values'),
])
def test_mistakes(tmp_path, iebn_file, image_folder, capsys, change, named):
    code, _, err = convert(capsys, '--checkpoint', iebn_file, *ARGV, '--data-dir', image_folder, '--output',
                           tmp_path / 'out', *change)
    assert code == 2 and named in err and leftovers(tmp_path) == [], err
    assert len(err.strip().splitlines()) <= 3


def test_other_classes_than_the_data(tmp_path, iebn_file, capsys):
    data = write_folder(tmp_path / 'data', train=2, test=1, classes=('a', 'b', 'c', 'd'))
    code, _, err = convert(capsys, '--checkpoint', iebn_file, *ARGV, '--data-dir', data, '--output', tmp_path / 'out')
    assert code == 2 and 'num_classes is 3, but' in err and 'has 4 classes' in err
    run = make_run(tmp_path / 'run', labels=['ant', 'bee', 'cat', 'zebra'], ema=False)
    code, _, err = convert(capsys, '--checkpoint', run / LAST, '--fold', '--data-dir', data, '-j', 0, '--output',
                           tmp_path / 'out')
    assert code == 2 and "class 'a' that is not among the 4 known ones" in err
    assert leftovers(tmp_path) == ['data', 'run']


def test_a_network_without_gates(tmp_path, image_folder, capsys):
    run = make_run(tmp_path / 'run', 'bn_resnet20_cifar', labels=list(CLASSES), ema=False)
    code, _, err = convert(capsys, '--checkpoint', run / LAST, '--fold', '--data-dir', image_folder, '-j', 0,
                           '--output', tmp_path / 'out')
    assert code == 2 and 'last.pth.tar has no IEBN layer, so there is no gate to fold' in err
    assert leftovers(tmp_path) == ['run']


def test_a_network_that_is_rebuilt_as_another_one_is_an_error(tmp_path, image_folder, capsys, monkeypatch):
    # the weights of the two fit each other, and one of them blurs
    monkeypatch.setattr('iebn_zoo.hub.convert.convert.base_architecture', lambda arch: 'resnet18')
    file = saved(iebn_network('iebn_resnetblur18'), tmp_path / 'blur.pth')
    code, _, err = convert(capsys, '--checkpoint', file, *ARGV, '--model', 'iebn_resnetblur18', '--data-dir',
                           image_folder, '--output', tmp_path / 'out')
    assert code == 1 and 'does not compute what the folded blur.pth does' in err and leftovers(tmp_path) == ['blur.pth']
