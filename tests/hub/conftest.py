"""One loopback Hub and one client process for a session; every test finds the Hub empty and healthy."""
import shutil

import pytest

from tests.support.hub.driver import Driver
from tests.support.hub.exported import make_export
from tests.support.hub.loopback import LoopbackHub


@pytest.fixture(scope='session')
def _hub():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def hub(_hub):
    """The Hub: no repositories, no faults, no requests seen."""
    _hub.heal()
    _hub.store.repos.clear()
    _hub.store.lfs.clear()
    return _hub


@pytest.fixture(scope='session')
def client_home(tmp_path_factory):
    """HF_HOME of ``driver``: its cache is in hub/."""
    return tmp_path_factory.mktemp('hf_home')


@pytest.fixture(scope='session')
def driver(_hub, client_home, _warm_python):
    """A client process whose endpoint is ``hub``."""
    process = Driver(_hub.env(client_home), _warm_python)
    yield process
    process.close()


@pytest.fixture(scope='session')
def _export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp('export'))


@pytest.fixture
def export_dir(_export, tmp_path):
    """A valid export directory of one's own, to push or to break."""
    return shutil.copytree(_export, tmp_path / 'export')
