"""The functions behind the page on the web, on a small network."""
import numpy as np
import pytest
import timm
import torch
from PIL import Image

import iebn_zoo
from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.prediction import page
from iebn_zoo.prediction.choice import NetworkCache
from iebn_zoo.prediction.page import answer, answer_or_message, check_upload
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.weights.open import Network
from iebn_zoo.weights.settings import model_settings

NAME = 'iebn_resnet18.bn_a1_in1k'  # what a visitor writes; the cache of the tests opens a small network for it
LABELS = ['cat', 'cat', '<b>$x_{$</b>', 'a\nb', 'y' * 500, '']


def network(arch='iebn_resnet20_cifar', trained=True):
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=6, layers=(1, 1, 1)).eval()
    for m in model.modules():
        if trained and isinstance(m, IEBatchNorm2d):
            torch.nn.init.normal_(m.get_parameter('gate_weight'))
    said = f'loaded {arch} from me/x@{"0a" * 20} (IEBN)'
    return Network(model, arch, {}, model_settings(model, {}), LABELS, arch, said)


def cache_of(*args, **kwargs):
    return NetworkCache(1, lambda name: network(*args, **kwargs))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / 'photo.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 900, 3), dtype=np.uint8)).save(path)
    return str(path)


def test_an_answer_has_what_predict_and_image_gates_say(photo):
    found = answer(cache_of(), NAME, photo)
    expected, = iebn_zoo.predict(network(), photo)
    assert list(found.classes.values()) == pytest.approx(expected.probabilities) and len(found.classes) == 5
    shown = [name.removesuffix(f' (class {c})') for name, c in zip(found.classes, expected.classes, strict=True)]
    wanted = {'': 'class 5', 'a\nb': 'a?b', 'y' * 500: 'y' * 37 + '...'}
    assert shown == [wanted.get(label, label) for label in expected.labels]
    assert found.picture.width > 600 and found.picture.mode.startswith('RGB')
    first, second = found.text.splitlines()
    assert first == 'loaded iebn_resnet20_cifar from me/x@0a0a0a0a (IEBN)'
    gates = iebn_zoo.image_gates(network(), photo)
    name = max(gates, key=lambda key: float(gates[key].median()))
    assert second.startswith('7 IEBN layers') and f'highest in {name} ({float(gates[name].median()):.2f})' in second


def test_gates_that_were_not_trained_and_networks_without_gates_say_so(photo):
    found = answer(cache_of(trained=False), NAME, photo)
    assert 'each gate_weight is zero' in found.text and found.picture is not None
    found = answer(cache_of('bn_resnet20_cifar'), NAME, photo)
    assert 'no IEBN layer' in found.text and found.picture is None and len(found.classes) == 5


def test_what_cannot_be_done_is_a_message_without_places(tmp_path, photo, monkeypatch):
    cache = cache_of()
    bad = tmp_path / 'bad.png'
    bad.write_bytes(b'no image')
    cut = tmp_path / 'cut.png'
    with open(photo, 'rb') as file:
        cut.write_bytes(file.read()[:3000])
    for name, path, said in ((NAME, None, 'no image yet'),
                             (NAME, str(bad), 'cannot decode the image that was uploaded'),
                             (NAME, str(cut), 'cannot decode the image'), ('/etc/passwd', photo, 'names no network'),
                             (None, photo, 'names no network'), (NAME, str(tmp_path), 'cannot')):
        found = answer_or_message(cache, name, path)
        assert found.classes == {} and found.picture is None
        assert said in found.text and str(tmp_path) not in found.text and '--' not in found.text
        assert len(found.text.splitlines()) <= 3
    monkeypatch.setattr(page, 'gates_of', lambda *args: 1 / 0)
    found = answer_or_message(cache, NAME, photo)
    assert found.classes == {} and 'not foreseen' in found.text


def test_uploads_have_limits(tmp_path, photo, monkeypatch):
    check_upload(photo)
    for side in (6500, 14000):  # small as files; Pillow refuses the second
        Image.new('1', (side, side)).save(tmp_path / 'bomb.png')
        with pytest.raises(UsageError, match='more than 40 million pixels'):
            check_upload(str(tmp_path / 'bomb.png'))
    Image.new('1', (3_000_000, 1)).save(tmp_path / 'line.png')  # 768 million pixels when its side is resized to 16
    with pytest.raises(UsageError, match='3000000 times its shorter side, expected at most 100'):
        check_upload(str(tmp_path / 'line.png'))
    monkeypatch.setattr(page, 'MOST_BYTES', 1 << 10)
    with pytest.raises(UsageError, match='MiB, expected at most'):
        check_upload(photo)
    with pytest.raises(IEBNZooError):
        check_upload(str(tmp_path / 'absent.png'))
