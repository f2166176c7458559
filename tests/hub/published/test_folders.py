"""The committed cards and their table are those that the command writes from the logs beside them."""
import json
import re
import shutil

import pytest

from iebn_zoo.hub.package.proof import WEIGHTS, prove
from iebn_zoo.hub.published.folder import folders, read_folder
from iebn_zoo.hub.published.index import COMMAND, index
from iebn_zoo.util.errors import IEBNZooError
from tests.support.paths import ROOT

CARDS = ROOT / 'hub_cards'
AGAIN = f'run: {COMMAND}'


@pytest.fixture(scope='module')
def committed():
    return folders(CARDS)


def test_the_cards_are_up_to_date(committed):
    assert len(committed) >= 2
    for folder in committed:
        assert (folder.path / 'README.md').read_text(encoding='utf-8') == folder.card(), (folder.path.name, AGAIN)


def test_the_table_is_up_to_date(committed):
    text = index(committed)
    assert (CARDS / 'README.md').read_text(encoding='utf-8') == text, AGAIN
    assert COMMAND in text
    for folder in committed:
        assert f'| [{folder.path.name}]({folder.path.name}/README.md) |' in text
    rows = [line for line in text.splitlines() if line.startswith('|')]
    assert len({len(re.findall(r'(?<!\\)\|', row)) for row in rows}) == 1 and len(rows) == len(committed) + 2


def test_no_file_names_a_place_of_a_machine(committed):
    for folder in committed:
        for path in folder.path.glob('*.*'):
            if path.suffix in ('.json', '.yaml', '.md', '.csv', '.txt'):
                assert not re.search(r'/(home|root|work|tmp|Users)/', path.read_text(encoding='utf-8')), path


def test_weights_that_the_package_carries_are_whole(committed):
    for folder in committed:
        if folder.carried:
            proof = prove(folder.path)
            assert not proof.edited, AGAIN
        else:
            assert not (folder.path / 'golden.safetensors').exists(), 'golden logits of weights that are not there'


@pytest.mark.parametrize('name, text, said', [
    ('facts.json', None, 'cannot read'), ('facts.json', '[]', 'holds a list'), ('facts.json', '{}', 'lacks a fact'),
    ('facts.json', '[' * 100_000, 'cannot read'), ('config.json', '{', 'config.json'),
    ('args.yaml', '- a', 'args.yaml'), ('runs.csv', 'arm,seed\nbn,0\n', 'runs.csv'),
    ('summary.csv', 'epoch\n0\n', 'summary'),
])
def test_a_damaged_folder_is_named(tmp_path, name, text, said):
    path = shutil.copytree(CARDS / 'iebn_resnet20_cifar.cifar100_10ep', tmp_path / 'iebn_resnet20_cifar.x',
                           ignore=shutil.ignore_patterns(WEIGHTS))
    if text is None:
        (path / name).unlink()
    else:
        (path / name).write_text(text)
    with pytest.raises(IEBNZooError, match=said) as e:
        read_folder(path)
    assert len(str(e.value).splitlines()) <= 3


def test_what_is_not_known_is_said(tmp_path):
    start = dict(scratch=False, license=None)
    for name, facts in (('iebn_resnet20_cifar.cifar100_10ep', dict(license=None, start=start)),
                        ('bn_resnet20_cifar.cifar100_10ep_folded', dict(license=None))):
        path = shutil.copytree(CARDS / name, tmp_path / name)
        known = json.loads((path / 'facts.json').read_text())
        (path / 'facts.json').write_text(json.dumps({**known, **facts}))
        card = read_folder(path).card()
        assert '\nlicense: unknown\n' in card and '**License of the weights:** unknown, because' in card
    table = index(folders(tmp_path))
    assert table.split(' | ').count('unknown') == 3  # both licenses and what the run started from
