import csv
import json
import math
import os
from pathlib import Path

import pytest
import scipy.stats

from iebn_zoo.studies.compare.arms import Arm
from iebn_zoo.studies.compare.grid import Cell
from iebn_zoo.studies.compare.notes import Notes
from iebn_zoo.studies.compare.report import draw
from iebn_zoo.studies.compare.results import ARM_COLUMNS, RUN_COLUMNS, arm_rows, run_row, write_rows
from iebn_zoo.studies.compare.table import markdown
from iebn_zoo.training.run import checkpoint as state
from iebn_zoo.training.run.records import write_summary, write_timing
from tests.support.plots.rows import rows


def cell(root, model, seed, top1, **tested):
    run = root / model / f'seed{seed}'
    run.mkdir(parents=True)
    write_summary(run, rows(top1))
    for name, value in tested.items():
        (run / f'{name}.json').write_text(json.dumps(dict(top1=value)))
    return Cell(Arm(model, model), seed, run)


def test_mean_and_sample_deviation_over_the_complete_runs(tmp_path):
    cells = [cell(tmp_path, 'bn', 0, [10.0, 40.0, 30.0]), cell(tmp_path, 'bn', 1, [10.0, 20.0, 34.0]),
             cell(tmp_path, 'bn', 2, [90.0, 95.0]), cell(tmp_path, 'iebn', 0, [1.0, 2.0, 36.5])]
    runs = [run_row(c, 3, tmp_path) for c in cells]
    assert [r['complete'] for r in runs] == [1, 1, 0, 1]
    assert (runs[0]['last'], runs[0]['best'], runs[0]['best_epoch'], runs[0]['run']) == (30.0, 40.0, 1, 'bn/seed0')
    bn, iebn = arm_rows(runs)
    assert (bn['n'], bn['epochs'], bn['seeds']) == (2, 3, '0 1')
    assert (bn['last_mean'], bn['last_min'], bn['last_max']) == (32.0, 30.0, 34.0)
    assert bn['last_std'] == pytest.approx(8 ** 0.5) and bn['best_mean'] == 37.0
    assert bn['best_std'] == pytest.approx(18 ** 0.5)
    assert iebn['n'] == 1 and iebn['last_std'] is None
    assert markdown([bn, iebn]).splitlines() == [
        '| model | n | last top-1 (%) | best top-1 (%) | epochs |', '|---|---|---|---|---|',
        '| bn | 2 | 32.00 ± 2.83 | 37.00 ± 4.24 | 3 |', '| iebn | 1 | 36.50 | 36.50 | 3 |']


def test_test_split_figures_stand_where_every_run_has_them(tmp_path):
    cells = [cell(tmp_path, 'bn', 0, [30.0], test_last=28.0, test_best=29.0),
             cell(tmp_path, 'bn', 1, [32.0], test_last=30.0)]
    (row,) = arm_rows([run_row(c, 1, tmp_path) for c in cells])
    assert row['test_last_mean'] == 29.0 and row['test_best_mean'] is None
    assert '| 29.00 ± 1.41 |' in markdown([row]) and 'test, best' not in markdown([row])
    (tmp_path / 'bn' / 'seed1' / 'test_last.json').write_text('{')
    assert run_row(cells[1], 1, tmp_path)['test_last'] is None


def test_the_best_epoch_is_the_one_that_training_chose(tmp_path):
    run = tmp_path / 'bn' / 'seed0'
    run.mkdir(parents=True)
    write_summary(run, rows([10.0, 40.0, 30.0], eval_ema_top1=[5.0, 20.0, 25.0], eval_ema_loss=[3.0, 1.0, 2.0]))
    found = Cell(Arm('bn', 'bn'), 0, run)
    row = run_row(found, 3, tmp_path)
    assert (row['weights'], row['last'], row['best'], row['best_epoch']) == ('ema', 25.0, 25.0, 2)
    row = run_row(found, 3, tmp_path, 'loss')
    assert (row['best'], row['best_epoch']) == (20.0, 1)
    assert arm_rows([row])[0]['weights'] == 'ema'
    write_summary(run, [dict(r, eval_loss=loss) for r, loss in zip(rows([10.0, 40.0, 30.0]), (1, 3, 2), strict=True)])
    row = run_row(found, 3, tmp_path, 'loss')
    assert (row['weights'], row['best'], row['best_epoch']) == ('model', 10.0, 0)


def test_a_figure_older_than_its_checkpoint_is_none(tmp_path):
    found = cell(tmp_path, 'bn', 0, [30.0], test_best=29.0)
    checkpoint: Path = found.run / state.BEST
    checkpoint.write_bytes(b'')
    os.utime(checkpoint, ns=(0, 0))
    assert run_row(found, 1, tmp_path)['test_best'] == 29.0
    later = (found.run / 'test_best.json').stat().st_mtime_ns + 1
    os.utime(checkpoint, ns=(later, later))
    assert run_row(found, 1, tmp_path)['test_best'] is None


def test_the_tables_on_disk(tmp_path):
    cells = [cell(tmp_path, 'bn', 0, [30.0]), Cell(Arm('bn', 'bn'), 1, tmp_path / 'no')]
    runs = [run_row(c, 1, tmp_path) for c in cells]
    write_rows(tmp_path / 'runs.csv', runs, RUN_COLUMNS)
    write_rows(tmp_path / 'results.csv', arm_rows(runs), ARM_COLUMNS)
    first, second = csv.DictReader((tmp_path / 'runs.csv').read_text().splitlines())
    assert (first['last'], first['epochs'], second['last'], second['epochs']) == ('30', '1', '', '0')
    (row,) = csv.DictReader((tmp_path / 'results.csv').read_text().splitlines())
    assert (row['n'], row['last_mean'], row['last_std']) == ('1', '30', '')


def test_differences_are_to_the_baseline_with_welchs_interval(tmp_path):
    accuracies = {'bn': [50.0, 52.0, 54.0], 'iebn': [57.0, 58.5, 57.5], 'se': [53.0]}
    cells = [cell(tmp_path, arm, seed, [top1])
             for arm, values in accuracies.items() for seed, top1 in enumerate(values)]
    runs = [run_row(c, 1, tmp_path) for c in cells]
    bn, iebn, se = arm_rows(runs, 'bn')
    assert bn['last_diff'] is None and bn['baseline'] is None and iebn['baseline'] == 'bn'
    expected = scipy.stats.ttest_ind(accuracies['iebn'], accuracies['bn'], equal_var=False).confidence_interval(0.95)
    assert (iebn['last_diff_low'], iebn['last_diff_high']) == pytest.approx(tuple(expected), rel=1e-6)
    assert (se['last_diff'], se['last_diff_low']) == (1.0, None)
    lines = [line.split(' | ') for line in markdown([bn, iebn, se]).splitlines()]
    assert lines[0][3] == 'difference to bn' and lines[2][3] == ''
    assert lines[3][3] == f"**+5.67 (+{iebn['last_diff_low']:.2f} to +{iebn['last_diff_high']:.2f})**"
    assert lines[4][3] == '+1.00'
    assert all(row['last_diff'] is None for row in arm_rows(runs))


def test_a_seed_whose_last_loss_is_not_finite_leaves_the_report_of_the_others(tmp_path):
    cells = [Cell(Arm(arm, arm), seed, tmp_path / arm / str(seed)) for arm in ('bn', 'iebn') for seed in (0, 1)]
    for cell in cells:
        cell.run.mkdir(parents=True)
        log = rows([10.0, 20.0 + cell.seed])
        if (cell.arm.name, cell.seed) == ('iebn', 1):
            log[1].update(eval_loss=math.nan)
        write_summary(cell.run, log)
    arms = arm_rows([run_row(cell, 2, tmp_path) for cell in cells], 'bn')
    assert arms[1]['last_mean'] is None and arms[1]['diverged'] == 1 and arms[1]['best_mean'] == 15.0
    assert arms[1]['last_diff_low'] is None and arms[0]['last_mean'] == 20.5
    assert '| 2 (1 diverged) | diverged |' in markdown(arms)
    assert draw(tmp_path / 'a.png', cells, 2, None, Notes()) and (tmp_path / 'a.png').is_file()


def test_gates_loss_and_hours_of_the_last_epoch(tmp_path):
    cells = []
    for seed, spreads in enumerate(([0.1, 0.2], [0.1, 0.3])):
        found = cell(tmp_path, 'iebn', seed, [1.0, 2.0])
        gates = dict(gate_mean_stem=[0.2, 0.4], gate_instance_spread_stem=spreads,
                     gate_instance_spread_stage1=[0.0, 0.5])
        write_summary(found.run, rows([1.0, 2.0], **gates))
        write_timing(found.run, [dict(epoch=e, seconds=900.0, images_per_second=1.0) for e in (0, 1)])
        cells.append(found)
    cells.append(cell(tmp_path, 'bn', 0, [1.0, 2.0]))
    runs = [run_row(Cell(Arm(c.arm.name, 'net'), c.seed, c.run), 2, tmp_path) for c in cells]
    iebn, bn = arm_rows(runs)
    assert iebn['gate_instance_spread_stem'] == 0.25 and iebn['gate_mean_stem'] == 0.4
    assert (iebn['hours'], bn['hours'], iebn['train_loss_mean']) == (1.0, None, 2.0)
    assert 'gate_mean_stem' not in bn
    table = markdown([iebn, bn]).splitlines()
    assert '| gate spread over images (stem, stage 1) |' in table[0]
    assert table[2].endswith('| 2.000 | 0.250, 0.500 | 2 |') and table[3].endswith('| 2.000 |  | 2 |')
    write_rows(tmp_path / 'results.csv', [bn, iebn], ARM_COLUMNS)  # the columns of the gates come with the second
    first, second = csv.DictReader((tmp_path / 'results.csv').read_text().splitlines())
    assert (first['gate_mean_stem'], second['gate_mean_stem']) == ('', '0.4')
