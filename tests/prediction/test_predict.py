"""predict: what validate counts, whatever names the network and the images."""
import csv
import io
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import iebn_zoo
from iebn_zoo.cli import run
from iebn_zoo.commands.predict import main
from iebn_zoo.commands.train import main as train
from iebn_zoo.data.formats import CorruptImageError
from iebn_zoo.prediction import source as source_module
from iebn_zoo.prediction.paths import image_paths
from iebn_zoo.prediction.predict import Prediction
from iebn_zoo.prediction.source import imagenet_names, open_source
from iebn_zoo.prediction.tables import as_csv, as_json, as_table
from iebn_zoo.training.config.arguments import validate_parser
from iebn_zoo.training.validate import validate
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.weights.open import Network
from iebn_zoo.weights.settings import cfg_of, model_settings, set_cfg
from tests.support.training.datasets import flags


@pytest.fixture(scope='module')
def trained(image_folder, tmp_path_factory):
    directory = tmp_path_factory.mktemp('prediction') / 'run'
    train(flags(image_folder, directory, '--epochs', '3', '--model-kwargs', 'layers=(1,1,1)', '--model-ema',
                '--model-ema-decay', '0.5', '--crop-pct', '0.9'))
    return directory


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / 'photo.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8)).save(path)
    return path


def test_it_finds_what_validate_counts(trained, image_folder):
    found = iebn_zoo.predict(trained, sorted((image_folder / 'test').rglob('*.png')), top_k=3, batch_size=5)
    measured = validate(validate_parser().parse_args([
        '--checkpoint', str(trained / 'last.pth.tar'), '--data-dir', str(image_folder), '-j', '0', '--device', 'cpu']))
    right = sum(os.path.basename(os.path.dirname(p.image)) == p.label for p in found)
    assert right == measured['top1_count'] and len(found) == measured['count']
    for p in found:
        assert sorted(p.probabilities, reverse=True) == list(p.probabilities)
        assert sum(p.probabilities) == pytest.approx(1)
        assert [('ant', 'bee', 'cat')[c] for c in p.classes] == list(p.labels)


def test_every_way_to_name_the_network(trained, photo, tmp_path):
    last = iebn_zoo.predict(trained, photo)
    assert iebn_zoo.predict(trained / 'last.pth.tar', photo) == last
    assert iebn_zoo.predict(open_source(trained), photo) == last
    ema = iebn_zoo.predict(open_source(trained, use_ema=True), photo)
    assert ema != last and iebn_zoo.predict(open_source(trained, best=True), photo) != last
    best = timm.create_model('iebn_resnet20_cifar', num_classes=3, layers=(1, 1, 1))
    best.load_state_dict(torch.load(trained / 'model_best.pth.tar', weights_only=True)['state_dict_ema'])
    probabilities = [p.probabilities for p in iebn_zoo.predict(open_source(trained, best=True), photo)]
    set_cfg(best, dict(cfg_of(best), crop_pct=0.9))
    assert [p.probabilities for p in iebn_zoo.predict(best, photo)] == probabilities
    assert run(__import__('iebn_zoo.commands.hub.export', fromlist=['main']).main,
               [str(trained), '--output', str(tmp_path / 'export')]) == 0
    for source in (tmp_path / 'export', f"local-dir:{tmp_path / 'export'}"):
        exported = iebn_zoo.predict(source, photo)
        assert exported[0].labels == last[0].labels
        assert exported[0].probabilities == pytest.approx(last[0].probabilities, abs=1e-6)


def test_a_model_at_hand_keeps_its_mode_and_indices_stand_for_missing_names(photo):
    model = timm.create_model('iebn_resnet20_cifar', num_classes=7).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    p, = iebn_zoo.predict(model, photo, top_k=99)
    assert model.training and len(p.classes) == 7 and p.labels == tuple(str(c) for c in p.classes)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_imagenets_names_are_those_of_timms_own_weights_alone(photo, monkeypatch):
    model = timm.create_model('resnet18.a1_in1k')
    network = Network(model, 'resnet18', {}, model_settings(model, {}), None, 'resnet18.a1_in1k', '')
    monkeypatch.setattr(source_module, 'open_network', lambda *args, **kwargs: network)
    found = iebn_zoo.predict('resnet18.a1_in1k', photo, top_k=1000)[0]
    assert 'goldfish, Carassius auratus' in found.labels and found.labels[found.classes.index(1)].startswith('goldfish')
    # 1000 outputs of a network with this tag may be of a fine-tuning on other classes
    assert iebn_zoo.predict(model, photo)[0].label.isdigit()
    assert iebn_zoo.predict('hf-hub:me/resnet18', photo)[0].label.isdigit()
    set_cfg(model, dict(cfg_of(model), label_names=[f'class {i}' for i in range(1000)]))
    assert iebn_zoo.predict(model, photo)[0].label.startswith('class ')
    assert imagenet_names(timm.create_model('iebn_resnet20_cifar', num_classes=1000)) is None


def test_every_kind_of_image_is_the_same_image(trained, photo):
    with Image.open(photo) as image:
        pixels = np.asarray(image)
        given = [str(photo), photo, image, pixels, open(photo, 'rb')]  # noqa: SIM115
        found = iebn_zoo.predict(trained, given)
        grey = Image.fromarray(pixels[:, :, 0])
    assert [p.image for p in found] == [str(photo), str(photo), 'image 2', 'image 3', 'image 4']
    for p in found:  # the rows of a batch may be computed by different kernels
        assert p.probabilities == pytest.approx(found[0].probabilities, rel=1e-5)
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert iebn_zoo.predict(trained, [grey])[0].probabilities == iebn_zoo.predict(trained, wide)[0].probabilities
    one_channel = timm.create_model('iebn_resnet20_cifar', in_chans=1, num_classes=3)
    assert len(iebn_zoo.predict(one_channel, [photo, grey, pixels[:, :, 0]])) == 3


def test_an_open_file_is_one_image(trained, photo):
    expected = iebn_zoo.predict(trained, photo)[0]
    with open(photo, 'rb') as file:
        for image in (io.BytesIO(photo.read_bytes()), file):
            found, = iebn_zoo.predict(trained, image)
            assert found == replace(expected, image='image 0')
    gates = iebn_zoo.image_gates(trained, io.BytesIO(photo.read_bytes()))
    assert torch.equal(gates['bn1'], iebn_zoo.image_gates(trained, photo)['bn1'])


@pytest.mark.parametrize('image, said', [
    (np.zeros((4, 4, 3)), 'float64 and shape'), (np.zeros((4, 4, 2), np.uint8), 'is no image'),
    (3, 'an object of type int is no image'), (b'GIF', r'type bytes is no image.*\n.*io.BytesIO'),
    (torch.zeros(3, 4, 4), 'type Tensor is no image'),
    (np.zeros((0, 4, 3), np.uint8), 'an image of 4x0 has no pixel'), (Image.new('L', (0, 5)), 'an image of 0x5 has no'),
])
def test_what_is_no_image_is_a_message(trained, image, said):
    for call in (iebn_zoo.predict, iebn_zoo.image_gates):
        with pytest.raises(UsageError, match=said):
            call(trained, [image])


@pytest.mark.parametrize('images', [None, 3])
def test_what_are_no_images_is_a_message(trained, images):
    for call in (iebn_zoo.predict, iebn_zoo.image_gates):
        with pytest.raises(UsageError, match=f'^images is a {type(images).__name__}'):
            call(trained, images)
    assert iebn_zoo.predict(trained, []) == []


def test_an_image_that_pillow_cannot_decode_any_more(trained, photo):
    lazy = Image.open(io.BytesIO(photo.read_bytes()[:200]))
    with pytest.raises(CorruptImageError, match='cannot decode the image that was given: .*truncated'):
        iebn_zoo.predict(trained, lazy)


@pytest.mark.parametrize('build, said', [
    (lambda: timm.create_model('iebn_resnet20_cifar', num_classes=0), 'was made with num_classes=0.*features'),
    (lambda: timm.create_model('iebn_resnet20_cifar', features_only=True), 'returns a list, expected logits'),
    (lambda: torch.nn.Conv2d(3, 5, 1), r'returns a tensor of shape \(1, 5, .*expected logits'),
    (lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Flatten(0)), 'returns a tensor of shape .*expected log'),
    (lambda: {'weight': torch.ones(1)}, 'type dict is no network'), (lambda: None, 'type NoneType is no network')])
def test_a_network_that_names_no_class_is_a_message(build, said, photo):
    with pytest.raises(UsageError, match=said):
        iebn_zoo.predict(build(), photo)


def test_a_head_of_ones_own_is_a_classifier_and_a_data_set_is_several_images(photo):
    model = timm.create_model('iebn_resnet20_cifar', num_classes=0, layers=(1, 1, 1))
    model.fc = torch.nn.Linear(model.num_features, 5)

    class Photos(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            if index >= len(self):
                raise IndexError
            return Image.open(photo)

    found = iebn_zoo.predict(model, Photos(), top_k=9)
    assert len(found) == 2 and sorted(found[0].classes) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16], ids=str)
def test_a_network_of_another_dtype(dtype, photo):
    model = timm.create_model('iebn_resnet20_cifar', num_classes=3, layers=(1, 1, 1))
    expected, = iebn_zoo.predict(model, photo, top_k=3)
    found, = iebn_zoo.predict(model.to(dtype), photo, top_k=3)
    order = sorted(found.classes, key=expected.classes.index)
    probabilities = [found.probabilities[found.classes.index(c)] for c in order]
    assert probabilities == pytest.approx(expected.probabilities, abs=0.02)


def test_numbers_out_of_range_and_sources_that_are_none(trained, photo, tmp_path):
    for number in (0, 2.5, None):
        with pytest.raises(UsageError, match=f'top_k is {number}, expected a whole number'):
            iebn_zoo.predict(trained, photo, top_k=number)
        with pytest.raises(UsageError, match=f'batch_size is {number}, expected a whole number'):
            iebn_zoo.image_gates(trained, photo, batch_size=number)
    with pytest.raises(UsageError, match="'nope' is no device"):
        iebn_zoo.predict(trained, photo, device='nope')
    with pytest.raises(UsageError, match='holds neither an export'):
        iebn_zoo.predict(tmp_path, photo)
    with pytest.raises(UsageError, match='no training run.*\n.*--best'):
        open_source('iebn_resnet20_cifar', best=True)
    with pytest.raises(IEBNZooError):
        iebn_zoo.predict('no_such_network', photo)


def test_paths(tmp_path):
    for name in ('a_10.png', 'a_2.png', '.hidden.png', 'notes.txt', 'sub/b.JPG', '.ipynb_checkpoints/a_2.png'):
        (tmp_path / 'photos' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'photos' / name).write_bytes(b'')
    root = tmp_path / 'photos'
    below = [str(root / name) for name in ('a_2.png', 'a_10.png', 'sub/b.JPG')]
    assert image_paths([str(root)]) == below
    assert image_paths([str(root / 'a_*.png'), str(root / 'notes.txt'), str(root)]) == [
        *below[:2], str(root / 'notes.txt'), below[2]]
    assert image_paths([str(tmp_path / 'pho*')]) == below
    (tmp_path / 'empty').mkdir()
    for nothing, kind in ((tmp_path / 'empty', 'directory with images'), (tmp_path / '*.gif', 'image file')):
        with pytest.raises(UsageError, match=f'no {kind} at'):
            image_paths([str(nothing)])


def test_links_in_directories_are_followed_or_named(tmp_path):
    for name in ('photos/a.png', 'elsewhere/deep/b.png'):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b'')
    (tmp_path / 'photos' / 'linked').symlink_to(tmp_path / 'elsewhere')
    root = tmp_path / 'photos'
    assert image_paths([str(root)]) == [str(root / 'a.png'), str(root / 'linked' / 'deep' / 'b.png')]
    (root / 'dead').symlink_to(tmp_path / 'nothing')
    with pytest.raises(UsageError, match='dead cannot be followed'):
        image_paths([str(root)])
    (root / 'dead').unlink()
    (root / 'around').symlink_to(root)
    with pytest.raises(UsageError, match='around is a link to a folder around it'):
        image_paths([str(root)])


def test_a_directory_that_cannot_be_read_is_no_directory_without_images(tmp_path, monkeypatch):
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'a.png').write_bytes(b'')
    scan = os.scandir

    def refuse(path):
        if str(path) == str(tmp_path / 'sub'):
            raise PermissionError(13, 'Permission denied')
        return scan(path)

    monkeypatch.setattr(os, 'scandir', refuse)  # root may read everything
    with pytest.raises(IEBNZooError, match=f'cannot read the folder {tmp_path}/sub: Permission denied'):
        image_paths([str(tmp_path)])


def test_tables_of_odd_names():
    found = [Prediction('photo\n\udcff.png', (1, 0), ('cat "the, first"', 'x' * 60), (0.75, 0.25)),
             Prediction('d' * 50 + '/b.png', (0,), ('dog',), (1.0,))]
    lines = as_table(found).splitlines()
    assert len(lines) == 2 and '75.0 % cat "the, first"' in lines[0] and lines[1].startswith('...d')
    assert 'b.png  100.0 % dog' in lines[1]
    rows = list(csv.DictReader(as_csv(found).splitlines(keepends=True)))
    assert [(r['rank'], r['class'], r['label'], r['probability']) for r in rows] == [
        ('1', '1', 'cat "the, first"', '0.75'), ('2', '0', 'x' * 60, '0.25'), ('1', '0', 'dog', '1')]
    content = json.loads(as_json(found).encode('utf-8'))
    assert content[0]['image'] == 'photo\n\\xff.png' and content[0]['classes'][0]['label'] == 'cat "the, first"'


def test_the_command_writes_tables_and_a_contact_sheet(trained, image_folder, tmp_path, capsys):
    bad = tmp_path / 'images' / 'bad.png'
    shutil.copytree(image_folder / 'test', bad.parent)
    bad.write_bytes(b'no image')
    argv = [str(trained), str(bad.parent), '--device', 'cpu']
    with pytest.raises(CorruptImageError, match=r'bad\.png'):
        main(argv)
    assert main([*argv, '--skip-corrupt', '--csv', str(tmp_path / 'p.csv'), '--json', '-', '-k', '2', '--save',
                 str(tmp_path / 'sheets')]) == 0
    said = capsys.readouterr()
    content = json.loads(said.out)
    rows = list(csv.DictReader((tmp_path / 'p.csv').read_text().splitlines()))
    assert len(content) == 21 and len(rows) == 42 and rows[0]['image'] == content[0]['image']
    assert 'skipped: cannot decode the image' in said.err and 'contact_sheet_1.png' in said.err
    with Image.open(tmp_path / 'sheets' / 'contact_sheet_1.png') as sheet:
        assert sheet.size == (6 * 212 + 12, 4 * (212 + 3 * 17) + 12)
        tile = np.asarray(sheet)[12:212, 12:212]
    with Image.open(content[0]['image']) as first:
        assert np.array_equal(tile, np.asarray(first.resize((200, 200), Image.Resampling.NEAREST)))
    assert main([*argv, '--skip-corrupt']) == 0
    assert len(capsys.readouterr().out.splitlines()) == 21


@pytest.mark.parametrize('argv, said', [
    (('-k', '0'), '--top-k is 0'), (('--csv', '-', '--json', '-'), 'cannot both'),
    (('--csv', 'photo.jpg'), '--csv photo.jpg would write over an image'),
])
def test_mistakes_of_the_command(trained, photo, argv, said):
    with pytest.raises(UsageError, match=said):
        main([str(trained), str(photo), *argv])


def test_nothing_decoded_is_an_error_and_a_place_that_cannot_be_written_too(trained, photo, tmp_path):
    (tmp_path / 'bad.png').write_bytes(b'')
    with pytest.raises(IEBNZooError, match='no image could be decoded'):
        main([str(trained), str(tmp_path / 'bad.png'), '--skip-corrupt'])
    (tmp_path / 'file').write_text('')
    with pytest.raises(UsageError, match='file is no directory'):
        main([str(trained), str(photo), '--save', str(tmp_path / 'file' / 'sheets')])


def test_names_by_number_have_the_order_of_their_numbers(photo):
    model = timm.create_model('iebn_resnet20_cifar', num_classes=3)
    set_cfg(model, dict(cfg_of(model), label_names={'2': 'cat', '0': 'ant', '1': 'bee'}))
    found, = iebn_zoo.predict(model, photo, top_k=3)
    assert [('ant', 'bee', 'cat')[c] for c in found.classes] == list(found.labels)
    model.reset_classifier(120)
    with pytest.raises(IEBNZooError, match='has 3 label names for 120 classes'):
        iebn_zoo.predict(model, photo)
