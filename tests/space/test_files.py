"""The files of the Space agree with each other, and the app holds no logic."""
import ast
import os
import re
import shutil
import subprocess
import sys

import yaml
from PIL import Image

from iebn_zoo.prediction.choice import MOST_NUMBERS, MOST_SIDE, check_choice
from iebn_zoo.prediction.page import MOST_BYTES, MOST_PIXELS
from iebn_zoo.util.resources import install_command
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
    project = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    (needed,) = re.findall(r'^dependencies = \[(.*?)^\]', project, flags=re.M | re.S)
    names = re.findall(r'"([\w-]+)', needed)
    assert len(names) > 5 and set(pinned) == {*names, 'gradio', 'pillow'}  # not iebn-zoo: see the next test


def test_the_package_lies_beside_the_app(tmp_path):
    """As the README says, and away from the checkout."""
    assert install_command() == 'pip install .'  # on the day that it is another: requirements.txt can name the package
    (line,) = re.findall(r'^    pip (install --no-deps .*--target .*)$', README, flags=re.M)
    words = line.replace('../my_space', str(tmp_path / 'my_space')).split()
    shutil.copytree(SPACE, tmp_path / 'my_space')
    subprocess.run([sys.executable, '-m', 'pip', *words, '--no-build-isolation', '--quiet',
                    '--disable-pip-version-check'], check=True, cwd=ROOT, timeout=300)
    (gone,) = re.findall(r'^    rm -r (.*?) *#', README, flags=re.M)
    for pattern in gone.replace('../', '').split():
        (path,) = tmp_path.glob(pattern)
        shutil.rmtree(path)
    assert {path.name for path in (tmp_path / 'my_space').iterdir()} - {path.name for path in SPACE.iterdir()} == {
        'iebn_zoo'}
    assert not [path for path in tmp_path.rglob('*') if path.suffix in ('.json', '.py', '.pyc', '.txt')
                and str(ROOT).encode() in path.read_bytes()]
    program = '\n'.join(line for line in APP.splitlines() if line.startswith(('from iebn_zoo', 'import os', 'os.'))) + (
        '\nimport iebn_zoo\nprint(iebn_zoo.__file__, len(zoo_names()), MOST_BYTES)')
    (tmp_path / 'my_space' / 'imports.py').write_text(program)
    done = subprocess.run([sys.executable, 'imports.py'], cwd=tmp_path / 'my_space', capture_output=True, text=True,
                          timeout=300, env={key: value for key, value in os.environ.items() if key != 'PYTHONPATH'})
    assert done.returncode == 0, done.stderr
    place, names, _ = done.stdout.split()
    assert place == str(tmp_path / 'my_space' / 'iebn_zoo' / '__init__.py') and int(names) > 80
    assert (tmp_path / 'my_space' / 'iebn_zoo' / '_data' / 'hub_cards').is_dir()


def test_the_readme_names_the_limits_of_the_code():
    assert f'{MOST_NUMBERS // 10**6} million parameters' in README and f'{MOST_NUMBERS * 4 // 10**6} MB' in README
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
