import csv
import json
import os
from pathlib import Path

import pytest

from iebn_zoo.compare.grid import Cell
from iebn_zoo.compare.results import MODEL_COLUMNS, RUN_COLUMNS, markdown, model_rows, run_row, write_rows
from iebn_zoo.training import state
from iebn_zoo.training.log import write_summary
from tests.plots.rows import rows


def cell(root, model, seed, top1, **tested):
    run = root / model / f'seed{seed}'
    run.mkdir(parents=True)
    write_summary(run, rows(top1))
    for name, value in tested.items():
        (run / f'{name}.json').write_text(json.dumps(dict(top1=value)))
    return Cell(model, seed, run)


def test_mean_and_sample_deviation_over_the_complete_runs(tmp_path):
    cells = [cell(tmp_path, 'bn', 0, [10.0, 40.0, 30.0]), cell(tmp_path, 'bn', 1, [10.0, 20.0, 34.0]),
             cell(tmp_path, 'bn', 2, [90.0, 95.0]), cell(tmp_path, 'iebn', 0, [1.0, 2.0, 36.5])]
    runs = [run_row(c, 3, tmp_path) for c in cells]
    assert [r['complete'] for r in runs] == [1, 1, 0, 1]
    assert (runs[0]['last'], runs[0]['best'], runs[0]['best_epoch'], runs[0]['run']) == (30.0, 40.0, 2, 'bn/seed0')
    bn, iebn = model_rows(runs)
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
    (row,) = model_rows([run_row(c, 1, tmp_path) for c in cells])
    assert row['test_last_mean'] == 29.0 and row['test_best_mean'] is None
    assert '| 29.00 ± 1.41 |' in markdown([row]) and 'test, best' not in markdown([row])
    (tmp_path / 'bn' / 'seed1' / 'test_last.json').write_text('{')
    assert run_row(cells[1], 1, tmp_path)['test_last'] is None


def test_the_best_epoch_is_the_one_that_training_chose(tmp_path):
    run = tmp_path / 'bn' / 'seed0'
    run.mkdir(parents=True)
    write_summary(run, rows([10.0, 40.0, 30.0], eval_ema_top1=[5.0, 20.0, 25.0], eval_ema_loss=[3.0, 1.0, 2.0]))
    found = Cell('bn', 0, run)
    row = run_row(found, 3, tmp_path)
    assert (row['weights'], row['last'], row['best'], row['best_epoch']) == ('ema', 25.0, 25.0, 3)
    row = run_row(found, 3, tmp_path, 'loss')
    assert (row['best'], row['best_epoch']) == (20.0, 2)
    assert model_rows([row])[0]['weights'] == 'ema'
    write_summary(run, [dict(r, eval_loss=loss) for r, loss in zip(rows([10.0, 40.0, 30.0]), (1, 3, 2), strict=True)])
    row = run_row(found, 3, tmp_path, 'loss')
    assert (row['weights'], row['best'], row['best_epoch']) == ('model', 10.0, 1)


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
    runs = [run_row(cell(tmp_path, 'bn', 0, [30.0]), 1, tmp_path), run_row(Cell('bn', 1, tmp_path / 'no'), 1, tmp_path)]
    write_rows(tmp_path / 'runs.csv', runs, RUN_COLUMNS)
    write_rows(tmp_path / 'results.csv', model_rows(runs), MODEL_COLUMNS)
    first, second = csv.DictReader((tmp_path / 'runs.csv').read_text().splitlines())
    assert (first['last'], first['epochs'], second['last'], second['epochs']) == ('30', '1', '', '0')
    (row,) = csv.DictReader((tmp_path / 'results.csv').read_text().splitlines())
    assert (row['n'], row['last_mean'], row['last_std']) == ('1', '30', '')
