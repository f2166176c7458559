"""From samples to rows, summary and chart; the numbers by hand."""
import csv

import pytest
import torch

from iebn_zoo.plots import benchmark as chart
from iebn_zoo.studies.benchmark.measure import Measured
from iebn_zoo.studies.benchmark.plan import Case
from iebn_zoo.studies.benchmark.results.report import (
    COLUMNS,
    interquartile_range,
    make_rows,
    read_rows,
    table_line,
    write_rows,
)
from iebn_zoo.studies.benchmark.results.summary import summarize
from iebn_zoo.studies.benchmark.settings import Setting
from iebn_zoo.util.errors import UsageError

FACTS = {'cpu': 'a, "cpu"', 'gpu': None, 'threads': 2, 'torch': torch.__version__}
# the machine was twice as slow in the second round: the ratio of the medians is 1.5, that in a round 1.2
BN, IEBN = [1e-3, 2e-3, 1e-3], [1.2e-3, 2.4e-3, 1.5e-3]


def case(name='2x3x4x5', shape=(2, 3, 4, 5), setting=Setting(), mode='train', kind='layer'):
    return Case(kind, name, shape, setting, mode, ('bn', 'iebn', 'naive'), 0)


def rows(**kwargs):
    results = {'bn': Measured(BN, 1000), 'iebn': Measured(IEBN, 1500), 'naive': Measured(error='RuntimeError: no')}
    return make_rows(case(**kwargs), results, 3, FACTS)


def test_numbers():
    bn, iebn, naive = rows()
    assert (bn['time_ms'], bn['time_iqr_ms'], bn['ratio'], bn['ratio_iqr']) == pytest.approx((1, 0.5, 1, 0))
    assert (iebn['time_ms'], iebn['ratio'], iebn['ratio_iqr']) == pytest.approx((1.5, 1.2, 0.15))
    assert (iebn['peak_mb'], iebn['memory_ratio'], iebn['rounds']) == pytest.approx((0.0015, 1.5, 3))
    assert naive['error'] == 'RuntimeError: no' and naive['ratio'] is None and naive['time_ms'] is None
    assert interquartile_range([4, 1, 2, 3, 5]) == 2


def test_without_a_baseline_there_is_no_ratio():
    results = {'bn': Measured(error='RuntimeError: no'), 'iebn': Measured(IEBN, 1500)}
    _, iebn = make_rows(case(), results, 3, FACTS)
    assert iebn['ratio'] is None and iebn['memory_ratio'] is None and iebn['time_ms'] == pytest.approx(1.5)
    assert 'iebn' in table_line(iebn)


@pytest.mark.parametrize('setting, mode, variant, traffic', [
    (Setting(), 'train', 'iebn', 8 * 480), (Setting(), 'train', 'bn', 8 * 480), (Setting(), 'infer', 'iebn', 3 * 480),
    (Setting(), 'infer', 'bn', 2 * 480), (Setting('bfloat16'), 'train', 'iebn', 8 * 240)])
def test_share_of_the_bandwidth(setting, mode, variant, traffic):
    results = {'bn': Measured([2e-6] * 2, 1), 'iebn': Measured([2e-6] * 2, 1)}
    found = {r['variant']: r for r in make_rows(case(setting=setting, mode=mode), results, 2, FACTS, bandwidth=4e9)}
    assert found[variant]['bandwidth_share'] == pytest.approx(traffic / 2e-6 / 4e9)
    assert '% of copy bandwidth' in table_line(found[variant])


def test_csv(tmp_path):
    write_rows(tmp_path / 'x.csv', rows())
    with open(tmp_path / 'x.csv', newline='', encoding='utf-8') as file:
        bn, iebn, naive = csv.DictReader(file)
    assert tuple(bn) == COLUMNS
    assert (iebn['kind'], iebn['name'], iebn['setting'], iebn['mode'], iebn['variant'], iebn['baseline']) == (
        'layer', '2x3x4x5', 'float32', 'train', 'iebn', 'bn')
    assert float(iebn['ratio']) == pytest.approx(1.2) and iebn['cpu'] == 'a, "cpu"' and iebn['compile'] == ''
    assert naive['error'] == 'RuntimeError: no' and naive['ratio'] == '' and naive['rounds'] == '0'


def _rounded(value):
    return pytest.approx(value, rel=1e-5) if isinstance(value, float) else value


def test_what_was_written_is_read(tmp_path):
    write_rows(tmp_path / 'x.csv', rows())
    for read, row in zip(read_rows(tmp_path / 'x.csv'), rows(), strict=True):
        assert {k: v for k, v in read.items() if v != _rounded(row[k])} == {}
    (tmp_path / 'x.csv').write_text('name,ratio\na,0.5\n')
    for name in ('x.csv', 'nothing.csv'):
        with pytest.raises(UsageError, match=f'{name} cannot be read'):
            read_rows(tmp_path / name)


def test_summary():
    fast = {'bn': Measured(BN, 1), 'iebn': Measured([0.3e-3, 0.6e-3, 0.3e-3], 1)}
    both = rows() + make_rows(case(name='9x9x9x9'), fast, 3, FACTS) + rows(mode='infer')
    header, train, infer, failed, unsteady = summarize(both)
    assert 'geometric mean' in header
    assert train.split() == ['layer', 'float32', 'train', 'iebn', '2', '0.600', '1.20', '2x3x4x5']
    assert infer.split() == ['layer', 'float32', 'infer', 'iebn', '1', '1.200', '1.20', '2x3x4x5']
    assert failed.startswith('2 of 8 rows failed')
    assert unsteady.startswith('6 of 8 times spread by more than 25%')


def test_chart(tmp_path):
    path = tmp_path / 'x.png'
    assert chart.draw(path, rows() + rows(kind='model', name='resnet20_cifar') + rows(mode='infer'))
    assert path.read_bytes().startswith(b'\x89PNG') and path.stat().st_size > 5000
    path.unlink()
    later = [dict(row, ratio=9.0, ratio_iqr=40.0) for row in rows() if row['ratio']]  # a line that would pass below 0
    assert chart.draw_days(path, {'day 1': rows(), 'day 2': later}, 'two days') and path.stat().st_size > 5000
    low, high = chart.limits(later)
    assert 0 < low < 1 and high > 29
    path.unlink()
    assert not chart.draw(path, rows()[:1]) and not path.exists()
