"""The wheel, away from the checkout."""
import os
import re
import subprocess
import sys
import zipfile

import pytest

from tests.support.paths import ROOT


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp('wheel')
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', str(ROOT), '--no-deps', '--no-build-isolation', '--quiet',
                    '--disable-pip-version-check', '-w', str(target)], check=True, timeout=300)
    (wheel,) = target.glob('iebn_zoo-*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target / 'site')
    return target / 'site'


def test_contents(site):
    names = {p.relative_to(site).as_posix() for p in site.rglob('*') if p.is_file()}
    data = 'iebn_zoo/_data'
    assert {'iebn_zoo/py.typed', f'{data}/hub_cards/model_card.md.j2',
            f'{data}/hub_cards/README.md', f'{data}/recipes/digits.yaml',
            f'{data}/hub_cards/iebn_resnet20_cifar.cifar100/model.safetensors'} <= names
    assert not any(n.startswith(('tests/', 'scripts/')) for n in names)
    (entry_points,) = site.glob('*.dist-info/entry_points.txt')
    assert 'iebn-zoo = iebn_zoo.cli:main' in entry_points.read_text()
    (metadata,) = site.glob('*.dist-info/METADATA')
    text = metadata.read_text()
    assert 'License-Expression: Apache-2.0' in text
    # the addresses of the paper; the package itself has none yet, and none may be invented
    assert re.findall(r'^Project-URL: (.*)$', text, flags=re.M) == [
        'Paper, https://arxiv.org/abs/1908.04008', 'Code of the paper, https://github.com/gbup-group/IEBN']


def test_works_outside_the_checkout(site, tmp_path):
    program = ('import sys, iebn_zoo, timm\n'
               'from iebn_zoo.cli import main\n'
               'from iebn_zoo.util.resources import resource\n'
               'assert iebn_zoo.__file__.startswith(sys.argv[1]), iebn_zoo.__file__\n'
               'assert str(resource("hub_cards", "model_card.md.j2")).startswith(sys.argv[1])\n'
               'model = timm.create_model("iebn_resnet20_cifar.cifar100", pretrained=True)\n'
               'assert model.pretrained_cfg["file"].startswith(sys.argv[1])\n'
               'assert timm.is_model("iebn_resnet50")\n'
               'sys.exit(main(["train", "--config", "digits", "--data-dir", "nowhere", "--output", "run"]))')
    done = subprocess.run([sys.executable, '-c', program, str(site)], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, 'PYTHONPATH': str(site)}, timeout=600)
    # the recipe was found inside the wheel, and the mistake is a message
    assert done.returncode == 2 and done.stderr.startswith('error: no such directory: nowhere'), done.stderr
