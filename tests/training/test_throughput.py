from iebn_zoo.training.arguments import train_parser
from iebn_zoo.training.throughput import measure
from tests.training.datasets import flags


def test_measures_both_kinds_of_steps(image_folder, tmp_path):
    args = train_parser().parse_args(flags(image_folder, tmp_path / 'unused'))
    speeds = measure(args, steps=2, rounds=2)
    assert len(speeds['loader']) == len(speeds['memory']) == 2 and speeds['ratio'] > 0
    assert not (tmp_path / 'unused').exists()
