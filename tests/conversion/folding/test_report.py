"""The figures of the report, worked out again from nothing but the layers' inputs; CSV and picture."""
import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from iebn_zoo import IEBatchNorm2d, fold_gates
from iebn_zoo.conversion.folding import FoldReport
from iebn_zoo.conversion.folding.agreement import measure_agreement
from iebn_zoo.plots.fold_report import draw_gates
from iebn_zoo.util.errors import IEBNZooError
from tests.support.conversion.folded_networks import images, network, zoo_model


@pytest.fixture(scope='module')
def folded():
    model = zoo_model()
    new, report = fold_gates(model, images(12).split(5), images(40, seed=8).split(16))
    return model, new, report


def inputs(model, x):
    """What each IEBN layer gets, by name."""
    seen = {}
    hooks = [m.register_forward_hook(lambda m, args, out, n=n: seen.update({n: args[0].numpy().astype(np.float64)}))
             for n, m in model.named_modules() if isinstance(m, IEBatchNorm2d)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


def test_gates(folded):
    model, _, report = folded
    seen = inputs(model, images(12))
    assert report.images == 12 and {gates.layer for gates in report.layers} == set(seen) and len(seen) == 7
    for row in report.layers:
        layer = model.get_submodule(row.layer)
        weight, bias = (p.detach().numpy().astype(np.float64) for p in (layer.gate_weight, layer.gate_bias))
        gates = 1 / (1 + np.exp(-(weight * seen[row.layer].mean((2, 3)) + bias)))
        assert row.channels == gates.shape[1]
        expected = gates.mean(), gates.std(0).mean(), gates.mean(0).std()
        np.testing.assert_allclose((row.mean, row.instance_spread, row.channel_spread), expected, rtol=1e-5)
        assert row.instance_spread > 1e-3 and row.channel_spread > 0.05


def test_agreement(folded):
    model, new, report = folded
    x = images(40, seed=8)
    with torch.no_grad():
        a, b = (m(x).numpy().astype(np.float64) for m in (model, new))
    measured = report.agreement
    same = int((a.argmax(1) == b.argmax(1)).sum())
    assert 0 < same < 40  # of these random networks: neither trivial case
    assert (measured.images, measured.same_top1, measured.top1) == (40, same, same / 40)
    np.testing.assert_allclose(
        (measured.max_difference, measured.mean_difference, measured.max_logit),
        (np.abs(a - b).max(), np.abs(a - b).mean(), np.abs(a).max()), rtol=1e-4)


def test_accuracy_where_classes_are_known(folded):
    model, new, report = folded
    assert report.agreement.accuracy_original is report.agreement.accuracy_folded is None
    x = images(40, seed=8)
    with torch.no_grad():
        targets = model(x).argmax(1)
    targets[3] = -1  # of unknown class
    targets[30:] = (targets[30:] + 1) % 5
    measured = measure_agreement(model, new, [(x[:25], targets[:25]), (x[25:], targets[25:])])
    with torch.no_grad():
        a, b = (int((m(x).argmax(1) == targets).sum()) for m in (model, new))
    assert (measured.labelled, measured.correct_original, measured.correct_folded) == (39, a, b) and a != b
    assert measured.accuracy_folded == b / 39 and measured.same_top1 == report.agreement.same_top1
    unlabelled = measure_agreement(model, new, [(x, torch.rand(40)), (x, torch.arange(3)), (x, ['names'] * 40)])
    assert unlabelled.labelled == 0 and unlabelled.images == 120
    text = str(FoldReport(12, report.layers, measured)).splitlines()
    assert f'({a}/39) before' in text[-1] and f'({b}/39) after' in text[-1]


def test_agreement_runs_in_eval_mode(folded):
    model, new, report = folded
    try:
        again = measure_agreement(model.train(), new.train(), images(40, seed=8).split(16))
        assert model.training and new.training
    finally:
        model.eval(), new.eval()
    assert again == report.agreement


def test_text(folded):
    _, _, report = folded
    text = str(report).splitlines()
    assert [line.split()[0] for line in text[1:8]] == [gates.layer for gates in report.layers]
    assert text[1].split()[1:] == ['16', *(f'{v:.3g}' for v in (
        report.layers[0].mean, report.layers[0].instance_spread, report.layers[0].channel_spread))]
    assert text[8] == 'gates averaged over 12 images'
    assert f'{report.agreement.same_top1}/40' in text[9]
    assert 'not measured' in str(fold_gates(network(), images(2))[1]).splitlines()[-1]


def test_csv(folded, tmp_path):
    _, _, report = folded
    report.write_csv(tmp_path / 'gates.csv')
    rows = list(csv.DictReader((tmp_path / 'gates.csv').read_text().splitlines()))
    assert [row['layer'] for row in rows] == [gates.layer for gates in report.layers]
    for row, gates in zip(rows, report.layers, strict=True):
        assert [float(row[k]) for k in ('channels', 'mean', 'instance_spread', 'channel_spread')] == [
            gates.channels, gates.mean, gates.instance_spread, gates.channel_spread]
        assert [float(row[k]) for k in ('images', 'held_out_images', 'top1_agreement', 'max_logit_difference')] == [
            12, 40, report.agreement.top1, report.agreement.max_difference]
    unmeasured = fold_gates(network(), images(2))[1]
    unmeasured.write_csv(tmp_path / 'gates.csv')
    rows = list(csv.DictReader((tmp_path / 'gates.csv').read_text().splitlines()))
    assert len(rows) == 2 and rows[0]['images'] == '2' and rows[0]['top1_agreement'] == ''


def test_picture(folded, tmp_path):
    _, _, report = folded
    draw_gates(report, tmp_path / 'gates.png')
    draw_gates(fold_gates(network(), images(2))[1], tmp_path / 'other.png')
    pictures = []
    for name in ('gates.png', 'other.png'):
        with Image.open(tmp_path / name) as image:
            assert image.format == 'PNG' and min(image.size) > 300
            pictures.append(np.asarray(image.convert('RGB')))
    assert all(len(np.unique(p.reshape(-1, 3), axis=0)) > 50 for p in pictures)
    assert pictures[0].shape != pictures[1].shape or (pictures[0] != pictures[1]).any()


def test_a_long_title_fits_into_the_picture(folded, tmp_path):
    _, _, report = folded
    many = replace(report, images=102_400, agreement=replace(report.agreement, images=50_000, same_top1=49_876))
    draw_gates(many, tmp_path / 'gates.png')
    with Image.open(tmp_path / 'gates.png') as image:
        pixels = np.asarray(image.convert('L'))
    title = pixels[:len(pixels) // 15]
    assert title.min() < 128 and (title[:, :5] == 255).all() and (title[:, -5:] == 255).all()


def test_many_layers_fit_into_the_picture(tmp_path):
    model = torch.nn.Sequential(*(IEBatchNorm2d(3) for _ in range(200)))
    draw_gates(fold_gates(model, images(2, 2))[1], tmp_path / 'gates.png')
    with Image.open(tmp_path / 'gates.png') as image:
        assert max(image.size) < 2500


@pytest.mark.parametrize('write', [lambda r, p: r.write_csv(p), draw_gates], ids=['csv', 'png'])
def test_a_failed_write_says_so(folded, tmp_path, write):
    path = tmp_path / 'missing' / 'file'
    with pytest.raises(IEBNZooError, match='cannot write .*missing/file'):
        write(folded[2], path)
    assert list(tmp_path.iterdir()) == []
