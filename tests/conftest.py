"""One thread per test process: several run side by side, and small shapes gain nothing from more."""
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest
import torch

from tests.levels import LEVELS, level_of
from tests.support.paths import ROOT
from tests.support.training.datasets import tar_splits, write_folder
from tests.support.warm.python import WarmPython

torch.set_num_threads(1)


def pytest_configure(config):
    for level in ('unit', *LEVELS):
        config.addinivalue_line('markers', f'{level}: see tests/levels.py')


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(ROOT):
            item.add_marker(level_of(item.path.relative_to(ROOT).as_posix()))


@pytest.fixture(scope='session')
def image_folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp('images') / 'folder')


@pytest.fixture(scope='session')
def image_tars(image_folder):
    return tar_splits(image_folder, image_folder.parent / 'tars')


@pytest.fixture(scope='session')
def _warm_python():
    if not hasattr(os, 'pidfd_open'):  # not Linux
        yield sys.executable
        return
    with tempfile.TemporaryDirectory() as directory:  # of a short path, unlike tmp_path
        python = WarmPython(Path(directory))
        yield str(python.executable)
        python.close()


@pytest.fixture(scope='module')
def warm_python(_warm_python):
    """While a module with this fixture runs, ``sys.executable`` starts fast: see tests/support/warm/python.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'executable', _warm_python)
        yield _warm_python
