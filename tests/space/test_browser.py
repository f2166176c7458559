"""The page in a browser: upload an image, press Classify, read the class and see the gates.

Needs gradio, chromium and chromedriver (Debian: chromium, chromium-driver), and is skipped without them.
IEBN_ZOO_SCREENSHOT=FILE.png writes the picture of hub_cards/space; IEBN_ZOO_SPACE_EXPORT=DIR takes another export.
"""
import importlib.util
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import iebn_zoo
from tests.support.browser import ENTER, Browser, missing, wait
from tests.support.hub.exported import make_export
from tests.support.hub.loopback import LoopbackHub
from tests.support.paths import ROOT

if importlib.util.find_spec('gradio') is None:
    pytest.skip('gradio is not installed: pip install -r hub_cards/space/requirements.txt', allow_module_level=True)
if missing():
    pytest.skip(f'{missing()} is not installed', allow_module_level=True)

SECONDS = 600  # a busy machine may well take a minute
TEXT, CLASSES, PICTURE = '#text textarea', '#classes', '#picture img'


@pytest.fixture(scope='module')
def export(tmp_path_factory):
    given = os.environ.get('IEBN_ZOO_SPACE_EXPORT')
    return Path(given) if given else make_export(tmp_path_factory.mktemp('space') / 'export')


@pytest.fixture(scope='module')
def page(export, tmp_path_factory):
    """The address of the page, whose Hub is a server of this test."""
    home = tmp_path_factory.mktemp('page')
    log = home / 'log'
    app = shutil.copy(ROOT / 'hub_cards' / 'space' / 'app.py', home)
    with LoopbackHub() as hub, log.open('w') as file:
        hub.add_repo('me/network', {p.name: p.read_bytes() for p in export.iterdir() if p.is_file()})
        process = subprocess.Popen(
            [sys.executable, '-u', str(app)], cwd=home, stdout=file, stderr=subprocess.STDOUT,
            env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'GRADIO_SERVER_NAME': '127.0.0.1',
                 'GRADIO_TEMP_DIR': str(home / 'uploads'), **hub.env(home / 'hub')})
        try:
            found = wait(lambda: process.poll() is not None or next((line for line in log.read_text().splitlines()
                                                                     if 'local URL' in line), None), SECONDS)
            assert isinstance(found, str) and process.poll() is None, log.read_text()
            yield found.rpartition('URL:')[2].strip()
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def browser(page, tmp_path):
    with Browser(tmp_path / 'browser') as browser:
        browser.open(page)
        browser.find('#classify', SECONDS)
        yield browser


def choose(browser, name):
    browser.click('#model input')
    browser.script("document.querySelector('#model input').select()")
    browser.type('#model input', name + ENTER)


def classify(browser):
    """Press the button; return what the page says then."""
    browser.click('#classify')
    return wait(lambda: browser.script(f'return document.querySelector("{TEXT}").value'), SECONDS)


def upload(browser, path):
    browser.type('#image input[type=file]', str(path))
    browser.find('#image img', SECONDS)


def photo(path):
    given = os.environ.get('IEBN_ZOO_SPACE_IMAGE')
    if given:
        return Path(given)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    return path


def test_upload_classify_read_and_see(browser, export, tmp_path):
    path = photo(tmp_path / 'photo.png')
    choose(browser, 'hf-hub:me/network')
    upload(browser, path)
    said = classify(browser)
    assert said.startswith('loaded iebn_resnet20_cifar from me/network@') and '19 IEBN layers' in said
    expected, = iebn_zoo.predict(export, path)
    shown = browser.script(f'return document.querySelector("{CLASSES}").innerText').splitlines()
    names = [line for line in shown if line in expected.labels]
    assert names == [expected.label, *expected.labels]  # the most probable one also as a headline
    assert f'{100 * expected.probabilities[0]:.0f}%' in shown
    browser.find(PICTURE, SECONDS)
    size = wait(lambda: browser.script(f'let i = document.querySelector("{PICTURE}");'
                                       'return i.complete && i.naturalWidth && [i.naturalWidth, i.naturalHeight]'),
                SECONDS)
    assert size[0] > 900 and size[1] > 400
    if os.environ.get('IEBN_ZOO_SCREENSHOT'):
        browser.screenshot(Path(os.environ['IEBN_ZOO_SCREENSHOT']))


def test_mistakes_are_messages_in_the_page(browser, tmp_path):
    assert classify(browser).startswith('there is no image yet.')
    (tmp_path / 'bad.png').write_bytes(b'no image')
    choose(browser, '/etc/passwd')
    upload(browser, photo(tmp_path / 'photo.png'))
    assert "'/etc/passwd' names no network" in wait(lambda: (said := classify(browser)) != '' and said, SECONDS)
    assert browser.script(f'return document.querySelector("{PICTURE}")') is None
    browser.open(browser.script('return location.href'))  # an empty page
    upload(browser, tmp_path / 'bad.png')
    assert 'cannot decode the image that was uploaded' in classify(browser)


def test_the_way_around_the_page_has_the_same_limits(page):
    """A visitor can also send requests; a file that was not uploaded is not opened."""
    request = urllib.request.Request(
        f'{page}/gradio_api/call/classify', method='POST', headers={'Content-Type': 'application/json'},
        data=(b'{"data": ["iebn_resnet18.bn_a1_in1k", {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]}'))
    with urllib.request.urlopen(request, timeout=SECONDS) as response:
        event = response.read().decode().split('"')[3]
    with urllib.request.urlopen(f'{page}/gradio_api/call/classify/{event}', timeout=SECONDS) as response:
        said = response.read().decode()
    assert said.startswith('event: error') and 'root:' not in said
