"""The Multi-Process Service: a stand-in for NVIDIA's control program, which only a GPU's machine has."""
import os
import subprocess
import sys

import pytest

from iebn_zoo.studies.compare.mps import mps

CONTROL = '''#!/bin/sh
echo "$@ $(cat) $CUDA_MPS_PIPE_DIRECTORY" >> {log}
{then}
'''


@pytest.fixture
def control(tmp_path, monkeypatch):
    def make(then='exit 0'):
        path = tmp_path / 'bin' / 'nvidia-cuda-mps-control'
        path.parent.mkdir(exist_ok=True)
        path.write_text(CONTROL.format(log=tmp_path / 'log', then=then))
        path.chmod(0o755)
        monkeypatch.setenv('PATH', f"{path.parent}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / 'log'

    return make


def test_it_is_started_for_the_block_and_ended_also_by_an_error(control, capsys):
    # a daemon keeps the output of its control program open
    log = control('[ "$1" = -d ] && (sleep 60 &) ; exit 0')
    with pytest.raises(ZeroDivisionError), mps(True) as variables:
        directory = variables['CUDA_MPS_PIPE_DIRECTORY']
        seen = subprocess.run([sys.executable, '-c', 'import os; print(os.environ["CUDA_MPS_PIPE_DIRECTORY"])'],
                              env={**os.environ, **variables}, capture_output=True, text=True).stdout.strip()
        assert seen == directory and os.path.isdir(directory)
        raise ZeroDivisionError
    assert log.read_text().split('\n')[:2] == [f'-d  {directory}', f' quit {directory}']
    assert not os.path.exists(directory) and not capsys.readouterr().err


def test_where_it_cannot_be_started_that_is_said(control, monkeypatch, capsys):
    log = control('echo "no GPU here"; exit 3')
    with mps(True) as variables:
        assert variables == {}
    assert 'note: --mps: nvidia-cuda-mps-control: no GPU here; the runs take turns' in capsys.readouterr().err
    assert len(log.read_text().splitlines()) == 1
    monkeypatch.setenv('PATH', '/nowhere')
    with mps(True) as variables:
        assert variables == {}
    assert 'there is no nvidia-cuda-mps-control' in capsys.readouterr().err


def test_unless_it_is_asked_for_nothing_is_started(control):
    log = control()
    with mps(False) as variables:
        assert variables == {} and not log.exists()
