"""A run whose loss is not finite in the end is called diverged, and costs no other arm its figures."""
import csv
import math

import pytest

from iebn_zoo.hub.card.seeds import read_arms
from iebn_zoo.plots.bands import bands_figure
from iebn_zoo.studies.compare import overview, report
from iebn_zoo.studies.compare.welch import contrast_interval, welch_interval
from iebn_zoo.studies.evidence.attacks import attacks_table
from iebn_zoo.studies.evidence.experiments import find_experiments
from iebn_zoo.studies.evidence.pictures import draw_pictures
from iebn_zoo.studies.evidence.results import main as write_results
from iebn_zoo.training.run.records import read_summary, write_summary
from tests.studies.evidence.test_tables import table
from tests.support.plots.experiments import grid


def diverge(run, loss=math.nan, first=1):
    """As training logs it: logits that are not finite count as the first class."""
    write_summary(run, [dict(row, eval_loss=loss, eval_top1=33.3) if row['epoch'] >= first else row
                        for row in read_summary(run)])
    return run


@pytest.mark.parametrize('loss', [math.nan, math.inf])
def test_the_report_names_the_run_and_has_all_other_arms(tmp_path, capsys, loss):
    run = diverge(grid(tmp_path) / 'iebn' / 'seed1', loss)
    report.from_logs(tmp_path)
    said = capsys.readouterr()
    assert said.err == f'warning: {run} has diverged: the loss of its last epoch is not finite\n'
    lines = (tmp_path / 'results.md').read_text().splitlines()
    assert lines[2].startswith('| bn | 3 | 51.00 ± 1.00 |') and lines[4].startswith('| se | 3 | 52.57 ± 0.50 | +1.57 (')
    assert lines[3].startswith('| iebn | 3 (1 diverged) | diverged |  | 51.67 ± 5.86 |')  # the best epochs are finite
    bn, iebn, se = csv.DictReader((tmp_path / 'results.csv').read_text().splitlines())
    assert (iebn['n'], iebn['diverged'], iebn['last_mean'], iebn['last_diff']) == ('3', '1', '', '')
    assert (bn['diverged'], se['diverged'], se['last_diff'] != '') == ('0', '0', True)
    rows = {row['run']: row for row in csv.DictReader((tmp_path / 'runs.csv').read_text().splitlines())}
    assert [(rows[f'iebn/seed{seed}']['last'], rows[f'iebn/seed{seed}']['complete']) for seed in range(3)] == [
        ('54', '1'), ('nan', '1'), ('56', '1')]
    assert (tmp_path / 'compare.png').read_bytes()[:4] == b'\x89PNG'
    assert [(arm.name, arm.last) for arm in read_arms(tmp_path / 'runs.csv')] == [
        ('bn', '51.00 ± 1.00'), ('iebn', 'diverged'), ('se', '52.57 ± 0.50')]  # for the cards


def test_a_baseline_and_a_grid_of_diverged_runs(tmp_path):
    for seed in range(3):
        diverge(grid(tmp_path / str(seed)) / 'bn' / f'seed{seed}', first=0)
        report.from_logs(tmp_path / str(seed))
        lines = (tmp_path / str(seed) / 'results.md').read_text().splitlines()
        assert lines[2].startswith('| bn | 3 (1 diverged) | diverged |  | diverged |  |')
        assert lines[3].startswith('| iebn | 3 | 55.00 ± 1.00 |  |')
    for run in (tmp_path / '0').glob('*/seed*'):
        diverge(run, first=0)
    report.from_logs(tmp_path / '0')
    lines = (tmp_path / '0' / 'results.md').read_text().splitlines()
    assert [line.split(' | ')[1:3] for line in lines[2:]] == 3 * [['3 (3 diverged)', 'diverged']]


def test_an_unfinished_run_has_not_diverged(tmp_path, capsys):
    run = diverge(grid(tmp_path) / 'bn' / 'seed0', first=0)
    write_summary(run, read_summary(run)[:1])
    report.from_logs(tmp_path)
    assert capsys.readouterr().err == '' and '| bn | 2 | 51.50' in (tmp_path / 'results.md').read_text()


def test_tables_and_pictures_of_documents(tmp_path, capsys):
    run = diverge(grid(tmp_path / 'zoo') / 'iebn' / 'seed1')
    arms = table(tmp_path, 'arms zoo')
    assert str(run) in capsys.readouterr().err
    assert arms[3] == '| IEBN | 3 (1 diverged) | diverged |  |' and arms[2].startswith('| BatchNorm | 3 | 51.00 ± 1.00')
    line = table(tmp_path, 'norms zoo')[2]
    assert '| 3 / 3 / 3 (1 diverged) | 51.00 ± 1.00 | 52.57 ± 0.50 | diverged |  |' in line
    lines = attacks_table(find_experiments([tmp_path])[0]).splitlines()
    assert '| 51.00 ± 1.00 | 52.57 ± 0.50 | diverged |  |' in lines[2]
    assert {path.name for path in draw_pictures(tmp_path, [], tmp_path / 'out')} == {'compare.png', 'overview.png'}
    assert write_results([str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / 'results.csv').read_text().splitlines()))
    assert [row['last_top1'] for row in rows if row['arm'] == 'iebn'] == ['54', 'nan', '56']


def test_a_picture_says_which_curves_end_early(tmp_path):
    diverge(grid(tmp_path) / 'iebn' / 'seed1')
    cells = report.found_cells(tmp_path)
    groups = {arm: [cell.rows() for cell in cells if cell.arm.name == arm] for arm in ('bn', 'iebn')}
    fig = bands_figure(groups)
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [
        'bn: last 51.00 ± 1.00 (n = 3)', 'iebn: 1 diverged (n = 3)']
    assert [sum(map(math.isfinite, line.get_ydata())) for line in fig.axes[1].get_lines()] == [2, 1]
    for run in tmp_path.glob('iebn/seed*'):
        diverge(run, first=0)
    overview.draw(tmp_path / 'overview.png', tmp_path)


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_no_interval_without_finite_values(value):
    assert welch_interval([1.0, value], [1.0, 2.0]) is None and welch_interval([1.0, 2.0], [value, 3.0]) is None
    assert contrast_interval([(1, [1.0, 2.0]), (-1, [value, value])]) is None
