"""What a stranger may name: networks of the zoo and of the Hub up to a size, and nothing of this machine."""
import os
import re
import subprocess
import sys
import threading

import pytest
import timm
from safetensors.torch import load, save

from iebn_zoo.prediction import choice
from iebn_zoo.prediction.choice import NetworkCache, check_choice, open_choice, zoo_names
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.weights.create import is_of_zoo
from tests.support.hub.exported import make_export
from tests.support.hub.loopback import LoopbackHub
from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures('warm_python')


@pytest.mark.parametrize('given, name', [
    (' iebn_resnet50.bn_a1_in1k\n', 'iebn_resnet50.bn_a1_in1k'), ('iebn_resnet18', 'iebn_resnet18'),
    ('hf-hub:me/x', 'hf-hub:me/x'), ('HF_HUB:me/x.y-z', 'hf-hub:me/x.y-z'),
    ('hf-hub:me/x@refs/pr/1', 'hf-hub:me/x@refs/pr/1'),
])
def test_what_is_allowed(given, name):
    assert check_choice(given) == name


@pytest.mark.parametrize('text, said', [
    ('', 'names no network'), (None, 'names no network'), (7, 'names no network'), ('/etc/passwd', 'names no network'),
    ('.', 'names no network'), ('run/last.pth.tar', 'names no network'), ('local-dir:/tmp', 'names no network'),
    ('https://x.y/z.safetensors', 'names no network'), ('file:///etc/passwd', 'names no network'),
    ('iebn_resnet18.bn_a1_in1k\nx', 'names no network'), ('x' * 10000, 'names no network'),
    ('hf-hub:', 'names no repository'), ('hf-hub:me', 'names no repository'),
    ('hf-hub:/etc/passwd', 'names no repository'),
    ('hf-hub:../..', 'names no repository'), ('hf-hub:me/x/y', 'names no repository'),
    ('hf-hub:https://x.y/z', 'names no repository'), ('hf-hub:me/x@../../y', 'names no repository'),
    ('hf-hub:me/x@', 'names no repository'), ('hf-hub:me/' + 'x' * 10000, 'names no repository'),
    ('resnet18.a1_in1k', 'is no network of this zoo'),
    ('iebn_resnet50.bn_a1', 'there are no weights for.*\nDid you mean'),
    ('iebn_resnet20_cifar.nothing', 'there are no weights for'), ('nothing', 'there are no weights for'),
])
def test_what_is_refused(text, said):
    with pytest.raises(UsageError, match=said) as caught:
        check_choice(text)
    assert len(str(caught.value)) < 400 and len(str(caught.value).splitlines()) <= 3


def test_a_file_with_the_name_of_a_network_is_not_opened(tmp_path, monkeypatch):
    (tmp_path / 'iebn_resnet18').write_bytes(b'weights of a stranger')
    monkeypatch.chdir(tmp_path)
    opened = []
    monkeypatch.setattr('iebn_zoo.prediction.source.open_network', lambda *names, **more: (
        opened.append((names, more)) or small_network('iebn_resnet18')))
    open_choice('iebn_resnet18')
    assert opened == [(('iebn_resnet18',), {})]


def test_the_list_has_our_names_with_classifiers():
    names = zoo_names()
    assert len(names) > 80 and names[0].startswith('iebn_') and len(set(names)) == len(names)
    assert all(is_of_zoo(name) and timm.is_model_pretrained(name) and timm.get_pretrained_cfg(name).num_classes
               for name in names)
    assert not is_of_zoo('resnet18.a1_in1k') and not is_of_zoo('nothing')


def test_a_network_that_is_too_large_is_not_loaded(monkeypatch):
    monkeypatch.setattr(choice, 'open_named', lambda name: pytest.fail('opened'))
    with pytest.raises(UsageError, match='iebn_resnet18 has 12 million parameters, expected at most 5'):
        open_choice('iebn_resnet18', most_numbers=5_000_000)


def opened_names(cache, *names):
    return [cache.get(name).network for name in names]


def small_network(name, **settings):
    model = timm.create_model('iebn_resnet20_cifar', layers=(1, 1, 1), num_classes=3).eval()
    data_config = {'input_size': (3, 32, 32), 'mean': (0.5,) * 3, 'std': (0.5,) * 3, 'crop_pct': 1.0,
                   'interpolation': 'bilinear', 'crop_mode': 'center'}
    return choice.Network(model, name, {}, {**data_config, **settings}, ['a', 'b', 'c'], name, f'loaded {name}')


@pytest.mark.parametrize('settings, said', [
    ({'input_size': (3, 20000, 32)}, 'wants images of 20,000 px'), ({'crop_pct': 1e-4}, 'wants images of 320,000 px'),
])
def test_an_input_that_is_too_large_is_refused(settings, said, monkeypatch):
    monkeypatch.setattr(choice, 'open_named', lambda name: small_network(name, **settings))
    with pytest.raises(UsageError, match=said):
        open_choice('iebn_resnet18')


def test_the_cache_keeps_what_was_used_last():
    asked = []
    cache = NetworkCache(2, lambda name: asked.append(name) or small_network(name))
    a, b, a_again = opened_names(cache, 'a', 'b', 'a')
    assert a is a_again and asked == ['a', 'b']
    assert opened_names(cache, 'c', 'a') == [cache.get('c').network, a] and len(cache) == 2
    cache.get('b')
    assert asked == ['a', 'b', 'c', 'b']
    with pytest.raises(UsageError, match='limit is 0'):
        NetworkCache(0)


def test_a_network_that_cannot_be_opened_is_asked_for_again():
    asked = []

    def fail(name):
        asked.append(name)
        raise IEBNZooError('the Hub does not answer')

    cache = NetworkCache(1, fail)
    for _ in range(2):
        with pytest.raises(IEBNZooError, match='does not answer'):
            cache.get('a')
    assert asked == ['a', 'a'] and len(cache) == 0


def test_many_threads_open_a_network_once_and_nobody_waits_for_one_that_is_there():
    asked, may_go_on = [], threading.Event()

    def slow(name):
        asked.append(name)
        assert name == 'there' or may_go_on.wait(30)
        return small_network(name)

    cache = NetworkCache(2, slow)
    cache.get('there')
    threads = [threading.Thread(target=cache.get, args=('slow',)) for _ in range(4)]
    for thread in threads:
        thread.start()
    cache.get('there')  # would hang if it waited for the others
    may_go_on.set()
    for thread in threads:
        thread.join(30)
    assert asked == ['there', 'slow']


PROGRAM = '''
import sys
from iebn_zoo.prediction.choice import open_choice
from iebn_zoo.util.errors import IEBNZooError
for name, most in (('me/x', 100_000), ('me/x', 1_000_000), ('me/half', 200_000)):
    try:
        print('OPENED', open_choice(f'hf-hub:{name}', most).shown)
    except IEBNZooError as e:
        print(type(e).__name__, str(e).splitlines()[0])
for name in ('hf-hub:me/none', 'hf-hub:me/empty', 'hf-hub:me/long'):
    try:
        open_choice(name)
    except IEBNZooError as e:
        print(type(e).__name__, str(e).splitlines()[0])
'''


def test_repositories_of_the_hub(tmp_path):
    """In a process of its own, whose Hub is a server of this test."""
    files = {p.name: p.read_bytes() for p in make_export(tmp_path / 'export').iterdir()}
    with LoopbackHub() as hub:
        head = hub.add_repo('me/x', files)
        half = {key: value.half() for key, value in load(files['model.safetensors']).items()}
        hub.add_repo('me/half', {**files, 'model.safetensors': save(half)})
        hub.add_repo('me/empty', {'README.md': b''})
        hub.add_repo('me/long', {**files, 'config.json': b' ' * (1 << 20) + files['config.json']})
        done = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, timeout=300,
                              cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(ROOT), **hub.env(tmp_path / 'home')})
        downloads = hub.count('GET', '/me/x/.*safetensors')
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch('UsageError the model.safetensors of hf-hub:me/x has [0-9,]+ bytes, expected at most 400,000.',
                        lines[0])
    assert lines[1] == f'OPENED hf-hub:me/x@{head.oid}'
    assert re.fullmatch('UsageError hf-hub:me/half.* has 0 million parameters, expected at most 0 million.', lines[2])
    assert lines[3].startswith('IEBNZooError cannot load hf-hub:me/none')
    assert lines[4] == 'IEBNZooError hf-hub:me/empty has no config.json.'
    assert lines[5].startswith('UsageError the config.json of hf-hub:me/long has')
    assert downloads == 1  # by the second of three lines
