"""One thread a test process: the suite runs two of them on two cores, and small shapes gain nothing from more."""
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest
import torch

from tests.levels import LEVELS, level_of
from tests.support.paths import ROOT
from tests.support.training.datasets import tar_splits, write_folder

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
