import os
import sys

import pytest
from safetensors import safe_open

from iebn_zoo.commands.demo import main
from iebn_zoo.training.run.lock import RunLock
from iebn_zoo.util.errors import IEBNZooError, UsageError


def test_demo_goes_the_whole_way(tmp_path, capsys):
    output = tmp_path / 'demo'
    assert main(['--output', str(output), '--epochs', '1']) == 0
    assert 'test top-1 of the exported model' in capsys.readouterr().out
    assert sum(len(files) for _, _, files in os.walk(output / 'data' / 'test')) == 360
    with safe_open(output / 'export' / 'model.safetensors', 'pt') as weights:
        assert 'bn1.gate_weight' in weights.keys()  # noqa: SIM118  a handle, not a dict
    with pytest.raises(UsageError, match='--overwrite'):
        main(['--output', str(output)])


def test_demo_never_removes_what_it_did_not_make(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'thesis.txt').write_text('mine')
    with pytest.raises(UsageError, match='not empty'):
        main(['--output', str(tmp_path), '--overwrite'])
    assert (tmp_path / 'run' / 'thesis.txt').read_text() == 'mine'


@pytest.fixture
def earlier(tmp_path):
    """An earlier demo, with the name of each of its files as the text."""
    for name in ('data/.digits', 'data/train/0/0001.png', 'run/last.pth.tar', 'export/README.md'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def files_of(directory):
    return {str(p.relative_to(directory)): p.read_text() for p in directory.rglob('*') if p.is_file()}


@pytest.mark.parametrize('epochs', ['-3', '0'])
def test_a_number_of_epochs_that_is_refused_costs_no_earlier_demo(earlier, epochs):
    before = files_of(earlier)
    with pytest.raises(UsageError, match=f'--epochs is {epochs}, expected at least 1'):
        main(['--output', str(earlier), '--overwrite', '--epochs', epochs])
    assert files_of(earlier) == before
    with pytest.raises(UsageError, match=f'--epochs is {epochs}'):
        main(['--output', str(earlier / 'new'), '--epochs', epochs])
    assert not (earlier / 'new').exists()


def test_an_earlier_demo_stays_without_scikit_learn_and_while_it_is_running(earlier, monkeypatch):
    before, lock = files_of(earlier), RunLock()
    lock.acquire(earlier / 'run')
    try:
        with pytest.raises(UsageError, match='another run is writing'):
            main(['--output', str(earlier), '--overwrite'])
    finally:
        lock.release()
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(IEBNZooError, match='scikit-learn, which is not installed'):
        main(['--output', str(earlier), '--overwrite'])
    found = files_of(earlier)
    found.pop('run/.lock')
    assert found == before


def test_a_place_that_is_a_file_is_a_message(tmp_path):
    (tmp_path / 'file').write_text('mine')
    for place in (tmp_path / 'file', tmp_path / 'file' / 'demo'):
        with pytest.raises(UsageError):
            main(['--output', str(place), '--overwrite'])
