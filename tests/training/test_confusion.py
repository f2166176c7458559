"""The confusion matrix against counting one by one."""
import csv

import numpy as np
import pytest
import torch
from PIL import Image

from iebn_zoo.cli import run
from iebn_zoo.commands.train import main as train
from iebn_zoo.commands.validate import main as validate
from iebn_zoo.prediction.predict import predict
from iebn_zoo.training.confusion import Confusion, write_confusion
from iebn_zoo.util.errors import IEBNZooError
from tests.support.training.datasets import flags


def rows(path):
    return list(csv.reader(path.read_text().splitlines()))


@pytest.mark.parametrize('classes, count', [(2, 5), (7, 60), (130, 400)])
def test_counts_pairs_and_worst(classes, count, tmp_path):
    rng = np.random.default_rng(classes)
    logits = torch.from_numpy(rng.normal(size=(count, classes)).astype(np.float32))
    targets = torch.from_numpy(rng.integers(-1, classes, count))
    confusion = Confusion(classes)
    for batch in zip(logits.split(13), targets.split(13), strict=True):
        confusion.add(*batch)
    expected = np.zeros((classes, classes), int)
    for row, target in zip(logits, targets.tolist(), strict=True):
        if target >= 0:
            expected[target, int(row.argmax())] += 1
    assert np.array_equal(confusion.counts.numpy(), expected)
    losses = -logits.double().log_softmax(1)[range(count), targets.clamp(min=0)]
    wrong = [i for i in range(count) if targets[i] >= 0 and int(logits[i].argmax()) != targets[i]]
    assert [m.number for m in confusion.worst] == sorted(wrong, key=lambda i: -losses[i])[:48]
    for m in confusion.worst:
        assert (m.target, m.answer) == (int(targets[m.number]), int(logits[m.number].argmax()))
        assert m.probability == pytest.approx(float(logits[m.number].double().softmax(0).max()), rel=1e-5)
    off = sorted((-n, i, j) for (i, j), n in np.ndenumerate(expected) if n and i != j)
    assert [n for _, _, n in confusion.pairs()] == [-n for n, _, _ in off[:10]]
    assert all(expected[i, j] == n and i != j for i, j, n in confusion.pairs())

    names = [f'class, "{i}"' for i in range(classes)]
    said = write_confusion(confusion, tmp_path / 'a' / 'b', names, 'title', lambda number: Image.new('RGB', (8, 8)))
    matrix = rows(tmp_path / 'a' / 'b' / 'confusion.csv')
    assert matrix[0] == ['target', *names] and [r[0] for r in matrix[1:]] == names
    assert np.array_equal(np.array([r[1:] for r in matrix[1:]], int), expected)
    for i, row in enumerate(rows(tmp_path / 'a' / 'b' / 'per_class.csv')[1:]):
        total, right = expected[i].sum(), expected[i, i]
        assert row[:3] == [names[i], str(total), str(right)] and row[4] == str(expected[:, i].sum())
        assert row[3] == ('' if total == 0 else f'{100 * right / total:.4g}')
    i, j, n = confusion.pairs()[0]
    assert said[0] == f'{names[i]} taken for {names[j]}: {n} of {expected[i].sum()}'


def test_validate_writes_what_predict_says(image_folder, tmp_path, capsys):
    # without learning, so that there are mistakes to show
    train(flags(image_folder, tmp_path / 'run', '--epochs', '1', '--lr', '0', '--model-kwargs', 'layers=(1,1,1)'))
    argv = ['--checkpoint', str(tmp_path / 'run' / 'last.pth.tar'), '--data-dir', str(image_folder), '-j', '0',
            '--device', 'cpu', '--batch-size', '4', '--confusion', str(tmp_path / 'confusion')]
    (tmp_path / 'confusion').mkdir()
    (tmp_path / 'confusion' / 'worst_9.png').write_bytes(b'of somebody')
    capsys.readouterr()
    assert validate(argv) == 0
    names = ['ant', 'bee', 'cat']
    expected = np.zeros((3, 3), int)
    for p in predict(tmp_path / 'run', sorted((image_folder / 'test').rglob('*.png'))):
        expected[names.index(p.image.split('/')[-2]), names.index(p.label)] += 1
    matrix = rows(tmp_path / 'confusion' / 'confusion.csv')
    assert np.array_equal(np.array([r[1:] for r in matrix[1:]], int), expected)
    assert ' taken for ' in capsys.readouterr().err
    with Image.open(tmp_path / 'confusion' / 'confusion.png') as image:
        assert image.width > 400
    assert sorted(p.name for p in (tmp_path / 'confusion').glob('worst_*')) == ['worst_1.png', 'worst_9.png']


def test_a_place_that_cannot_be_written_is_a_message(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(IEBNZooError, match='(?s)cannot make .*--confusion'):
        write_confusion(Confusion(2), tmp_path / 'file' / 'x', None, 'title', None)
    assert run(lambda argv: write_confusion(Confusion(2), tmp_path / 'file' / 'x', None, 'title', None)) == 1
