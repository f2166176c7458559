"""Rows; the numbers by hand."""
import csv

import pytest
import torch

from iebn_zoo.plots import benchmark_gpu as chart
from iebn_zoo.studies.benchmark.gpu.parts import Case, Job
from iebn_zoo.studies.benchmark.gpu.report import COLUMNS, FACTS, Table, facts, labelled, table_line
from iebn_zoo.studies.benchmark.results.summary import summarize

LAYER = Case('layer', '2x3x4x5', (2, 3, 4, 5), 'bfloat16', ('bn', 'iebn'), (), 3, 0)
OTHERS = Case('model', 'resnet50', (128, 3, 224, 224), 'bfloat16', ('naive',), ('bn',), 3, 0)
JOB = Job('layers', 'cuda:0', (LAYER,))


def read(path):
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


@pytest.fixture
def table(tmp_path):
    return Table(tmp_path / 'x.csv', dict.fromkeys(FACTS, 'f') | dict(gpu='NVIDIA X', torch='9'), dry_run=False)


def fill(table):
    table.add(JOB, LAYER.record('forward', 'graph', 'bn', seconds=[1e-3, 2e-3, 1e-3], host_seconds=[3e-3, 4e-3, 9e-3],
                                bytes=3 * 10 ** 6, copy_seconds=[5e-4, 5e-4, 6e-4]))
    return table.add(JOB, LAYER.record('forward', 'graph', 'iebn', seconds=[1.2e-3, 2.4e-3, 1.5e-3], host_seconds=[],
                                       bytes=3 * 10 ** 6, copy_seconds=[5e-4, 5e-4, 6e-4]))


def test_numbers(table):
    (iebn,) = fill(table)
    bn = table.rows[0]
    assert (bn['time_ms'], bn['host_ms'], bn['ratio'], bn['gb_per_s'], bn['copy_share']) == pytest.approx(
        (1, 4, 1, 3, 0.5))
    # the second round was slow for both: the ratio is that within a round
    assert (iebn['time_ms'], iebn['ratio'], iebn['gb_per_s'], iebn['copy_share']) == pytest.approx((1.5, 1.2, 2, 1 / 3))
    assert iebn['host_ms'] is None and iebn['baseline'] == 'bn' and iebn['images_per_s'] is None
    assert "2 GB/s, 33 % of a copy's" in table_line(iebn)


def test_the_file_is_complete_after_every_row(table):
    for i, mode in enumerate(('forward', 'backward', 'infer')):
        table.add(JOB, LAYER.record(mode, 'graph', 'bn', seconds=[1.0, 2.0]))
        rows = read(table.path)
        assert len(rows) == i + 1 and tuple(rows[0]) == COLUMNS
    assert rows[0]['gpu'] == 'NVIDIA X' and rows[0]['dry_run'] == 'False' and rows[0]['setting'] == 'bfloat16'


def test_a_reference_is_compared_with_and_not_reported(table):
    job = Job('models', 'cuda:0', (OTHERS,), executions=('eager',))
    assert table.add(job, OTHERS.record('train', 'eager', 'bn', seconds=[0.1, 0.2])) == []
    (row,) = table.add(job, OTHERS.record('train', 'eager', 'naive', seconds=[0.2, 0.5]))
    assert row['ratio'] == pytest.approx(2.25) and row['images_per_s'] == pytest.approx(128 / 0.35)
    (infer,) = table.add_missing(job, 'too late')
    assert (infer['variant'], infer['mode'], infer['error'], infer['time_ms']) == ('naive', 'infer', 'too late', None)
    assert len(read(table.path)) == 2 and 'failed: too late' in table_line(infer)
    assert table.add_missing(job, 'again') == []


def test_what_compiled(table):
    job = Job('compiled', 'cuda:0', (OTHERS,), backend='inductor', compile_mode='max-autotune')
    (row,) = table.add(job, OTHERS.record('train', 'compile', 'naive', error='RuntimeError: no', seconds=[]))
    assert row['compile'] == 'inductor:max-autotune' and row['error'] == 'RuntimeError: no' and row['rounds'] == 0


def test_summary_and_chart(table, tmp_path):
    fill(table)
    table.add(JOB, LAYER.record('forward', 'graph', 'copy3', seconds=[1e-3, 1e-3], bytes=3 * 10 ** 6))
    assert summarize(labelled(table.rows))[1].split() == [
        'layer', 'graph', 'forward', 'iebn', '1', '1.200', '1.20', '2x3x4x5']
    path = tmp_path / 'x.png'
    assert chart.draw(path, labelled(table.rows))
    assert path.read_bytes().startswith(b'\x89PNG') and path.stat().st_size > 5000
    assert not chart.draw(tmp_path / 'y.png', labelled(table.rows[:1])) and not (tmp_path / 'y.png').exists()


def test_facts():
    found = facts(torch.device('cpu'))
    assert set(found) == set(FACTS) and found['torch'] == torch.__version__ and found['cuda'] == torch.version.cuda
