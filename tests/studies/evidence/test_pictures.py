"""Pictures of new experiments, and what is refused."""
import shutil

import pytest

from iebn_zoo.studies.compare.overview import draw as draw_overview
from iebn_zoo.studies.evidence.pictures import draw_pictures, find_pictures, main
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.paths import ROOT
from tests.support.plots.experiments import grid, write_logs, write_notes

LOGS = ROOT / 'scripts' / 'benchmarks'


def test_a_new_experiment_gets_a_picture_by_itself(tmp_path, capsys):
    grid(tmp_path / 'logs' / 'grid')
    write_logs(tmp_path / 'logs' / 'single', 'bn', 0, [1.0])  # nothing to compare
    assert main([str(tmp_path / 'logs'), '--output', str(tmp_path / 'out')]) == 0
    path = tmp_path / 'out' / 'grid' / 'compare.png'
    assert capsys.readouterr().out.strip() == str(path) and path.read_bytes().startswith(b'\x89PNG')
    assert [p.name for p in tmp_path.rglob('*.png')] == ['compare.png']


def test_an_experiment_without_a_complete_run(tmp_path):
    for arm in ('bn', 'iebn'):
        write_logs(tmp_path / 'early', arm, 0, [1.0 + len(arm)], epochs=2)
    assert draw_pictures(tmp_path, [], tmp_path) == []
    with pytest.raises(IEBNZooError, match='no run is complete'):
        draw_pictures(tmp_path, ['early/compare.png'], tmp_path)
    write_logs(tmp_path / 'early', 'bn', 1, [1.0, 2.0, 3.0])
    with pytest.raises(UsageError, match='runs of 2 and 3 epochs'):
        draw_pictures(tmp_path, [], tmp_path)


def test_unknown_names_and_unwritable_places(tmp_path):
    grid(tmp_path / 'zoo')
    for name in ('zoo/other.png', '../compare.png', '/etc/a.png'):
        with pytest.raises(UsageError, match='no logs below .* make a picture'):
            draw_pictures(tmp_path, [name], tmp_path)
    (tmp_path / 'file').write_text('')
    with pytest.raises(IEBNZooError, match='cannot make'):
        draw_pictures(tmp_path, [], tmp_path / 'file')


def test_a_benchmark_with_a_missing_or_damaged_day_is_named(tmp_path):
    grid(tmp_path / 'zoo')
    shutil.copy(LOGS / 'cpu_float32.csv', tmp_path)
    assert 'cpu_float32.png' in [picture.name for picture in find_pictures(tmp_path)]
    with pytest.raises(UsageError, match='cpu_inference.csv cannot be read'):
        draw_pictures(tmp_path, ['cpu_float32.png'], tmp_path)
    (tmp_path / 'cpu_compile.csv').write_text('name,ratio\na,b\n')
    with pytest.raises(UsageError, match='cpu_compile.csv cannot be read'):
        draw_pictures(tmp_path, ['cpu_compile.png'], tmp_path)


def test_the_overview_waits_for_all_runs(tmp_path):
    with pytest.raises(UsageError, match='holds no run of BatchNorm'):
        draw_overview(tmp_path / 'a.png', tmp_path)
    for arm in ('bn', 'iebn-start-bn'):
        write_logs(tmp_path, arm, 0, [1.0, 2.0], model='bn_resnet20_cifar')
    with pytest.raises(UsageError, match='holds no run of IEBN'):
        draw_overview(tmp_path / 'a.png', tmp_path)
    write_notes(tmp_path, arms={'iebn-start-bn': dict(norm='iebn')})
    draw_overview(tmp_path / 'a.png', tmp_path)
    assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')
    write_logs(tmp_path, 'bn', 1, [1.0], model='bn_resnet20_cifar')
    with pytest.raises(UsageError, match='runs of 1 and 2 epochs'):
        draw_overview(tmp_path / 'a.png', tmp_path)
    write_logs(tmp_path, 'iebn', 0, [1.0, 2.0], model='iebn_resnet20_cifar')
    with pytest.raises(UsageError, match='holds two arms of IEBN'):
        draw_overview(tmp_path / 'a.png', tmp_path)
