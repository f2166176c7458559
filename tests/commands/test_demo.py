import os

import pytest
from safetensors import safe_open

from iebn_zoo.commands.demo import main
from iebn_zoo.util.errors import UsageError


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
