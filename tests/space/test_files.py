"""The files of the Space agree with each other, and the app holds no logic."""
import ast
import re

import yaml
from PIL import Image

from iebn_zoo.prediction.choice import MOST_NUMBERS, MOST_SIDE, check_choice
from iebn_zoo.prediction.page import MOST_BYTES, MOST_PIXELS
from iebn_zoo.version import __version__
from tests.support.paths import ROOT

SPACE = ROOT / 'hub_cards' / 'space'
README = (SPACE / 'README.md').read_text(encoding='utf-8')
APP = (SPACE / 'app.py').read_text(encoding='utf-8')


def test_the_front_matter_and_the_requirements_name_the_same_versions():
    matter = yaml.safe_load(README.split('---')[1])
    lines = (SPACE / 'requirements.txt').read_text().splitlines()
    pinned = dict(line.split('==') for line in lines if not line.startswith('#'))
    assert matter['sdk'] == 'gradio' and matter['sdk_version'] == pinned['gradio']
    assert (SPACE / matter['app_file']).is_file() and len(matter['short_description']) <= 60
    assert pinned['iebn-zoo'] == __version__


def test_the_readme_names_the_limits_of_the_code():
    assert f'{MOST_NUMBERS // 10**6} million parameters' in README
    assert f'{MOST_BYTES >> 20} MiB and {MOST_PIXELS // 10**6} million pixels' in README
    assert f'{MOST_SIDE} pixels a side' in README


def test_the_app_is_thin_and_hides_the_token_before_the_client_is_imported():
    tree = ast.parse(APP)
    assert len(APP.splitlines()) <= 70
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [node for node in imports if node.lineno < APP[:APP.index('HF_HUB_DISABLE')].count('\n') + 1] == imports[:1]
    assert {name.split('.')[0] for node in imports[1:] for name in (
        [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])} == {
            'typing', 'gradio', 'iebn_zoo'}
    first = re.findall(r"^FIRST = '(.*)'", APP, flags=re.M)
    assert [check_choice(name) for name in first] == first and len(first) == 1


def test_the_screenshot_is_small():
    path = SPACE / 'screenshot.png'
    assert path.stat().st_size < 200_000
    with Image.open(path) as image:
        assert image.width >= 1000
