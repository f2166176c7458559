import pytest

from iebn_zoo.studies.benchmark.throughput import measure
from iebn_zoo.training.config.arguments import train_parser
from tests.support.training.datasets import flags


@pytest.mark.parametrize('flag, kinds', [('--device-data', {'loader', 'device'}), ('--no-device-data', {'loader'})])
def test_measures_every_kind_of_steps(image_folder, tmp_path, flag, kinds):
    args = train_parser().parse_args(flags(image_folder, tmp_path / 'unused', flag))
    speeds = measure(args, steps=2, rounds=2)
    assert speeds['ratios'].keys() == kinds and min(speeds['ratios'].values()) > 0
    assert all(len(speeds[name]) == 2 for name in (*kinds, 'tensors'))
    assert not (tmp_path / 'unused').exists()
