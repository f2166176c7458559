"""The changelog has the form of Keep a Changelog, and what it says of old imports is true."""
import importlib
import re

from tests.support.paths import ROOT

TEXT = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
KINDS = ['Added', 'Changed', 'Deprecated', 'Removed', 'Fixed', 'Security']


def test_form():
    heads = re.findall(r'^## (.*)$', TEXT, flags=re.M)
    assert heads[0] == '[Unreleased]' and heads[-1] == 'Upgrading'
    assert all(re.fullmatch(r'\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d', head) for head in heads[1:-1])
    for section in re.split(r'^## ', TEXT, flags=re.M)[1:-1]:
        found = re.findall(r'^### (.*)$', section, flags=re.M)
        assert found == [kind for kind in KINDS if kind in found] and found


def test_old_imports_still_work():
    for name in ('errors', 'folding', 'noise'):
        assert f'`iebn_zoo.{name}`' in TEXT and importlib.import_module(f'iebn_zoo.{name}').__all__
