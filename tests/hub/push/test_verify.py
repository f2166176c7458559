"""iebn_zoo.verify on a real export: as a directory, a repository at a pinned commit, and a cache offline."""
import json
import os
import random
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open

import iebn_zoo
from iebn_zoo.cli import main as iebn_zoo_command
from iebn_zoo.commands.hub.export import main as export
from iebn_zoo.hub.card.mark import with_repo_id
from iebn_zoo.hub.package.check import check_directory
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.hub.driver import Driver
from tests.support.hub.exported import edit_golden
from tests.support.hub.loopback import WRITE_TOKEN
from tests.support.hub.runs import make_run

LABELS = [f'class {i}' for i in range(10)]
FILES = ('README.md', 'config.json', 'curves.png', 'model.safetensors', 'summary.csv', 'golden.safetensors')


@pytest.fixture(scope='module')
def _real(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp('run') / 'run', labels=LABELS, ema=False)
    output = tmp_path_factory.mktemp('export') / 'model'
    assert export([str(run), '--output', str(output)]) == 0
    return output


@pytest.fixture
def real(_real, tmp_path):
    """An export of a run, of one's own to tamper with."""
    return shutil.copytree(_real, tmp_path / 'model')


def config_with(change):
    def tamper(directory):
        path = directory / 'config.json'
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config, indent=2) + '\n')
    return tamper


def flip(name, offset):
    def tamper(directory):
        content = bytearray((directory / name).read_bytes())
        content[offset] ^= 1
        (directory / name).write_bytes(content)
    return tamper


def weights_with(change):
    def tamper(directory):
        weights = safetensors.torch.load_file(directory / 'model.safetensors')
        change(weights)
        safetensors.torch.save_file(weights, directory / 'model.safetensors', {'format': 'pt'})
    return tamper


def _swap(config):
    names = config['label_names']
    names[3], names[4] = names[4], names[3]


def _half_crop(config):
    config['pretrained_cfg']['crop_pct'] = 0.5


# what was done -> (how, words of the message)
TAMPERED = {
    'two labels swapped': (config_with(_swap), 'label_names is'),
    'ten equal labels': (config_with(lambda c: c.update(label_names=['cat'] * 10)), 'label_names'),
    'no labels': (config_with(lambda c: c.pop('label_names')), 'label_names is missing'),
    'labels that stand second': (
        config_with(lambda c: c['pretrained_cfg'].update(label_names=c.pop('label_names')[::-1])), 'label_names is'),
    'another mean': (config_with(lambda c: c['pretrained_cfg'].update(mean=[0.485, 0.456, 0.406])), '.mean is'),
    'a mean that is off by little': (
        config_with(lambda c: c['pretrained_cfg'].update(mean=[0.501, 0.4, 0.3])), '.mean is'),
    'another std': (config_with(lambda c: c['pretrained_cfg'].update(std=[0.2, 0.3, 0.26])), '.std is'),
    'crop 0.5': (config_with(_half_crop), 'crop_pct is 0.5'),
    'another interpolation': (
        config_with(lambda c: c['pretrained_cfg'].update(interpolation='bicubic')), 'interpolation'),
    'another crop mode': (config_with(lambda c: c['pretrained_cfg'].update(crop_mode='squash')), 'crop_mode'),
    'a loose fit': (config_with(lambda c: c['model_args'].update(pretrained_strict=False)), 'config.json'),
    'one space more': (lambda d: (d / 'config.json').write_text((d / 'config.json').read_text() + ' '), 'config.json'),
    'a bit of the weights': (flip('model.safetensors', -2), 'model.safetensors is not the file'),
    'the sign of a weight': (weights_with(lambda w: w['fc.bias'][:1].neg_()), 'model.safetensors is not the file'),
    'a bit of the curve': (flip('curves.png', 100), 'curves.png is not the file'),
    'a bit of the log': (flip('summary.csv', -3), 'summary.csv is not the file'),
    'a bit of the golden logits': (flip('golden.safetensors', -1), 'golden.safetensors'),
    'no log': (lambda d: (d / 'summary.csv').unlink(), 'has no summary.csv'),
    'no weights': (lambda d: (d / 'model.safetensors').unlink(), 'has no model.safetensors'),
}


def refused(call, *words):
    with pytest.raises(IEBNZooError) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) <= 3, message
    for word in words:
        assert word in message, (word, message)


def test_a_real_export_verifies(real, capsys):
    found = iebn_zoo.verify(real)
    assert found.difference <= 1e-5 and sorted(found.files) == sorted(FILES) and found.commit is None
    assert not found.edited and not found.others and not found.offline
    (real / 'notes.txt').write_text('mine')
    assert iebn_zoo_command(['verify', str(real)]) == 0
    out = capsys.readouterr().out
    assert 'not checked  notes.txt' in out and 'as exported  model.safetensors' in out


def test_golden_holds_an_image_and_what_becomes_of_it(real):
    golden = safetensors.torch.load_file(real / 'golden.safetensors')
    image, transformed = golden['image'], golden['image_input']
    assert image.dtype == torch.uint8 and image.ndim == 3 and image.numel() < 10_000
    assert transformed.shape == (3, 32, 32) and golden['image_logits'].shape == (10,)
    # by the paper and pencil of the preprocessing: resize the shorter edge, cut the middle, normalize
    resized = Image.fromarray(image.numpy()).resize((32, round(32 * 48 / 40)), Image.Resampling.BILINEAR)
    rows = torch.from_numpy(np.array(resized))[3:35].permute(2, 0, 1) / 255
    expected = (rows - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)
    torch.testing.assert_close(transformed, expected, atol=0.02, rtol=0)
    with safe_open(real / 'golden.safetensors', framework='pt') as file:
        metadata = file.metadata()
    assert json.loads(metadata['top1_label']) == LABELS[int(golden['image_logits'].argmax())]
    assert sorted(json.loads(metadata['files'])) == sorted(set(FILES) - {'golden.safetensors'})
    assert len(metadata['label_names_sha256']) == 64 and json.loads(metadata['preprocessing'])['crop_pct'] == 1.0


@pytest.mark.parametrize('what', TAMPERED)
def test_what_was_tampered_with_is_found(real, what):
    tamper, words = TAMPERED[what]
    tamper(real)
    refused(lambda: iebn_zoo.verify(real), words)
    refused(lambda: check_directory(real))  # so push refuses it, too


# an exporter gone wrong binds what it has just written: what a user gets must still be compared with what was trained
@pytest.mark.parametrize('what, words', [
    ('ten equal labels', 'label_names'), ('another mean', '.mean is'), ('crop 0.5', 'crop_pct'),
    ('two labels swapped', 'label_names'), ('the sign of a weight', 'does not compute the logits'),
])
def test_what_was_written_wrong_is_found(real, what, words):
    TAMPERED[what][0](real)
    edit_golden(real)
    refused(lambda: iebn_zoo.verify(real), words)


def test_a_loose_fit_does_not_hide_a_lost_tensor(real):
    TAMPERED['a loose fit'][0](real)
    weights_with(lambda w: w.pop('layer1.0.bn1.gate_bias'))(real)  # as it is at its start, so the logits may agree
    edit_golden(real)
    refused(lambda: iebn_zoo.verify(real))


def test_an_image_that_is_prepared_in_another_way(real):
    edit_golden(real, lambda tensors, metadata: tensors['image_input'].add_(0.1))
    refused(lambda: iebn_zoo.verify(real), 'prepares an image in another way')


def test_an_image_that_gets_another_name(real):
    edit_golden(real, lambda tensors, metadata: metadata.update(top1_label=json.dumps('a dog')))
    refused(lambda: iebn_zoo.verify(real), "was 'a dog'")


def test_a_card_may_be_edited_and_that_is_said(real, capsys):
    card = real / 'README.md'
    card.write_text(card.read_text() + '\nMy own words.\n')
    assert iebn_zoo.verify(real).edited == ('README.md',) and check_directory(real).edited == ['README.md']
    assert iebn_zoo_command(['verify', str(real)]) == 0
    out = capsys.readouterr().out
    assert 'edited  README.md' in out and 'what it says was not checked' in out


def test_an_old_export_is_told_what_cannot_be_checked(real):
    golden = safetensors.torch.load_file(real / 'golden.safetensors')
    old = {name: golden[name] for name in ('input', 'logits')}
    safetensors.torch.save_file(old, real / 'golden.safetensors', {'format': 'pt'})
    for call in (lambda: iebn_zoo.verify(real), lambda: check_directory(real)):
        refused(call, 'older iebn-zoo', 'its logits agree',
                'label names, preprocessing and the files cannot be checked', 'Export the run again')
    old['logits'] = old['logits'] + 1
    safetensors.torch.save_file(old, real / 'golden.safetensors', {'format': 'pt'})
    refused(lambda: iebn_zoo.verify(real), 'does not compute the logits')


@pytest.mark.parametrize('change, words', [
    (lambda t, m: m.update(layout='99'), "layout '99'"),
    (lambda t, m: m.update(files='[' * 100_000), 'metadata cannot be read'),
    (lambda t, m: m.update(files='[]'), 'are no objects'),
    (lambda t, m: m.pop('preprocessing'), 'preprocessing'),
    (lambda t, m: m.update(files=json.dumps({'../../etc/passwd': '0' * 64})), "binds '../../etc/passwd'"),
    (lambda t, m: m.update(files=json.dumps({'config.json': '0' * 64})), 'does not bind'),
    (lambda t, m: t.pop('image_logits'), "no tensor 'image_logits'"),
    (lambda t, m: t.update(image=t['image'].float()), 'holds an image'),
    (lambda t, m: t.update(image_logits=t['image_logits'][:3].clone()), 'holds an image'),
])
def test_a_golden_file_that_cannot_be(real, change, words):
    edit_golden(real, change)
    refused(lambda: iebn_zoo.verify(real), words)


def test_a_config_that_asks_for_far_more_than_the_weights_is_not_built(real, monkeypatch):
    from iebn_zoo.hub.package import proof
    config_with(lambda config: config['model_args'].update(channels=[1024, 1024, 8192]))(real)
    monkeypatch.setattr(proof, '_check_files', lambda directory, golden: ())
    monkeypatch.setattr(proof, '_load', None)
    with pytest.raises(IEBNZooError, match='make a network of .* numbers, and it holds'):
        iebn_zoo.verify(real)


def test_no_name_no_directory(real, tmp_path):
    for name, words in (('x', 'not a repository id'), ('/no/such', 'not a directory'), ('./no', 'not a directory'),
                        ('local-dir:no/such', 'not a directory'), ('a/b/c', 'not a repository id')):
        with pytest.raises(UsageError, match=words):
            iebn_zoo.verify(name)
    with pytest.raises(UsageError, match='no revision'):
        iebn_zoo.verify(real, 'main')
    with pytest.raises(UsageError, match='Give one of them'):
        iebn_zoo.verify('me/x@one', 'two')
    (tmp_path / 'empty').mkdir()
    refused(lambda: iebn_zoo.verify(tmp_path / 'empty'), 'has no model.safetensors')
    os.mkfifo(tmp_path / 'empty' / 'model.safetensors')
    refused(lambda: iebn_zoo.verify(tmp_path / 'empty'), 'has no model.safetensors')  # and does not wait for a writer


def test_a_network_whose_images_have_two_channels(tmp_path, monkeypatch):
    from iebn_zoo.hub.package.export import export as export_run
    monkeypatch.setattr('iebn_zoo.hub.package.export.reload_fresh', lambda made: check_directory(made).difference)
    run = make_run(tmp_path / 'run', ema=False, in_chans=2)
    output, difference = export_run(run, tmp_path / 'out')
    assert difference == 0 and iebn_zoo.verify(output).difference == 0
    assert set(safetensors.torch.load_file(output / 'golden.safetensors')) == {'input', 'logits'}


@pytest.mark.parametrize('seed', range(6))
def test_no_flipped_bit_is_accepted_in_silence(_real, tmp_path, seed):
    rng = random.Random(seed)
    contents = {name: (_real / name).read_bytes() for name in FILES}
    copy = shutil.copytree(_real, tmp_path / 'copy')
    for _ in range(12):
        name = rng.choice(FILES)
        changed = bytearray(contents[name])
        # headers are short and matter most
        changed[rng.randrange(min(len(changed), rng.choice((1500, 10 ** 9))))] ^= 1 << rng.randrange(8)
        (copy / name).write_bytes(changed)
        try:
            found = iebn_zoo.verify(copy)
        except IEBNZooError as e:
            assert len(str(e).splitlines()) <= 3
        else:
            assert found.edited == (name,) == ('README.md',), name
        (copy / name).write_bytes(contents[name])


def upload(hub, directory, repo_id):
    return hub.add_repo(repo_id, {path.name: path.read_bytes() for path in directory.iterdir()})


def test_a_repository_at_a_pinned_commit(hub, driver, real):
    head = upload(hub, real, 'me/v')
    TAMPERED['crop 0.5'][0](real)
    moved = hub.commit('me/v', {'config.json': (real / 'config.json').read_bytes(), 'optimizer.bin': b'theirs'})
    done = driver.verify('me/v', '--revision', head.oid)
    assert done.code == 0 and f'verified hf-hub:me/v@{head.oid}' in done.stdout and 'optimizer' not in done.stdout, done
    assert driver.verify(f'hf-hub:me/v@{head.oid}').code == 0
    driver.verify('me/v').fails(1, 'crop_pct is 0.5')
    driver.verify('me/v', '--revision', moved.oid).fails(1, 'crop_pct is 0.5')
    driver.verify('me/v', '--revision', 'no-such').fails(1, 'no such revision')
    driver.verify('me/none').fails(1, 'does not exist')
    hub.add_repo('me/other', {'README.md': b'x'})
    driver.verify('me/other').fails(1, 'has no golden.safetensors', 'iebn-zoo exported')
    assert not [r for r in hub.requests if r.method in ('PUT', 'DELETE') or '/commit/' in r.path]


@pytest.mark.parametrize('what', ['two labels swapped', 'another mean', 'ten equal labels', 'a loose fit',
                                  'a bit of the weights', 'a bit of the golden logits', 'no log'])
def test_what_was_tampered_with_on_the_hub_is_found(hub, driver, real, what):
    tamper, words = TAMPERED[what]
    tamper(real)
    upload(hub, real, 'me/tampered')
    driver.verify('me/tampered').fails(1, words.replace('has no summary.csv', 'has no summary.csv, which belongs'))


def test_a_card_that_names_another_repository_is_said(hub, driver, real):
    card = (real / 'README.md').read_text()
    files = {path.name: path.read_bytes() for path in real.iterdir()}
    for repo_id, named, said in (('me/own', 'me/own', False), ('lab/fork', 'me/own', True)):
        hub.add_repo(repo_id, {**files, 'README.md': with_repo_id(card, named).encode()})
        found = driver.verify(repo_id)
        assert found.code == 0 and 'as exported  README.md' in found.stdout, found  # a fork is no edit
        assert (f'note: the code on the card loads me/own, and this is {repo_id}, ' in found.stdout) == said, found
    assert iebn_zoo.verify(real).other_name is None


def test_a_private_repository_and_one_that_was_deleted_are_not_taken_from_the_cache(hub, driver, real):
    head = upload(hub, real, 'lab/secret')
    hub.store.repos['lab/secret'].private = True
    assert driver.verify('lab/secret', '--revision', head.oid).code == 0
    driver.verify('lab/secret', '--revision', head.oid, token=None).fails(1, 'lab/secret')
    del hub.store.repos['lab/secret']
    driver.verify('lab/secret', '--revision', head.oid).fails(1, 'does not exist')


@pytest.fixture
def offline(_hub, client_home):
    """A client process with the same cache, which may not ask the Hub."""
    process = Driver({**_hub.env(client_home), 'HF_HUB_OFFLINE': '1'})
    yield process
    process.close()


def test_a_cache_offline(hub, driver, offline, client_home, real):
    head = upload(hub, real, 'me/cached-v')
    offline.verify('me/cached-v').fails(1, 'golden.safetensors of me/cached-v is not in the cache', 'HF_HUB_OFFLINE')
    assert driver.verify('me/cached-v', token=WRITE_TOKEN).code == 0
    asked = len(hub.requests)
    for argv in (('me/cached-v', '--revision', head.oid), (f'me/cached-v@{head.oid}',)):
        done = offline.verify(*argv, token=None)
        assert done.code == 0 and 'the Hub was not asked' in done.stdout and head.oid in done.stdout, done
    offline.verify('me/cached-v', '--revision', '0' * 40).fails(1, 'is not in the cache')
    snapshot = client_home / 'hub' / 'models--me--cached-v' / 'snapshots' / head.oid
    assert iebn_zoo.verify(snapshot).difference <= 1e-5  # links and all: it only reads
    blob = (snapshot / 'model.safetensors').resolve()
    flip(blob.name, -2)(blob.parent)
    offline.verify(f'me/cached-v@{head.oid}').fails(1, 'model.safetensors is not the file')
    assert len(hub.requests) == asked
    driver.verify('me/cached-v').fails(1, 'has other bytes in the cache than on the Hub', 'Delete')
    blob.unlink()
    offline.verify(f'me/cached-v@{head.oid}').fails(1, 'model.safetensors of me/cached-v', 'is not in the cache')


@pytest.mark.parametrize('prefix', ['', 'local-dir:'])
def test_a_file_is_no_name_of_a_repository(tmp_path, monkeypatch, prefix):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'model.safetensors').touch()
    with pytest.raises(UsageError, match='model.safetensors is a file, .*\nGive the directory'):
        iebn_zoo.verify(f'{prefix}model.safetensors')
