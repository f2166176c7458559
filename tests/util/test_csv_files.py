import csv
import io
from pathlib import Path

import pytest

from iebn_zoo.training.run.records import read_summary, write_summary
from iebn_zoo.util.csv_files import csv_text, read_csv, write_csv
from iebn_zoo.util.errors import IEBNZooError

ROOT = Path(__file__).resolve().parents[2]
ROWS = [{'epoch': 0, 'name': 'a, "b"', 'loss': 1 / 3}, {'epoch': 1, 'name': None, 'loss': 2.0, 'top1': 50.0}]


def test_rows_come_back_with_their_kinds_and_without_their_empty_fields(tmp_path):
    write_csv(tmp_path / 'x.csv', ROWS)
    assert read_csv(tmp_path / 'x.csv', {'epoch': int, 'name': str}) == [
        ROWS[0], {'epoch': 1, 'loss': 2.0, 'top1': 50.0}]


def test_a_file_has_a_header_and_unix_line_ends(tmp_path):
    write_csv(tmp_path / 'x.csv', ROWS, ('epoch', 'loss', 'name', 'top1'), digits=3)
    assert (tmp_path / 'x.csv').read_bytes() == b'epoch,loss,name,top1\n0,0.333,"a, ""b""",\n1,2,,50\n'


@pytest.mark.parametrize('text', ['cr\rx', '\r', 'line\nfeed', 'both\r\n', ' a', '"', '', 'ä,\t'])
def test_a_field_of_any_characters_is_one_field(text):
    rows = [['label', 'count'], [text, '1'], ['b', text]]
    assert list(csv.reader(io.StringIO(csv_text(rows[0], rows[1:]), newline=''))) == rows


def test_columns_of_the_same_name_stay_apart():
    assert csv_text(['target', 'cat', 'cat'], [['cat', 1, 2]]) == 'target,cat,cat\ncat,1,2\n'


def test_a_key_without_a_column_and_a_bad_place_leave_the_old_file(tmp_path):
    (tmp_path / 'x.csv').write_text('old')
    with pytest.raises(ValueError, match="no columns for \\['name', 'top1'\\]"):
        write_csv(tmp_path / 'x.csv', ROWS, ('epoch', 'loss'))
    assert (tmp_path / 'x.csv').read_text() == 'old'
    with pytest.raises(IEBNZooError):
        write_csv(tmp_path / 'absent' / 'x.csv', ROWS)


@pytest.mark.parametrize('text', ['epoch,loss\n0,1,2\n', 'epoch,loss\n0\n', 'epoch,loss\nx,1\n'])
def test_a_damaged_row_raises(tmp_path, text):
    (tmp_path / 'x.csv').write_text(text)
    with pytest.raises((ValueError, TypeError, csv.Error)):
        read_csv(tmp_path / 'x.csv', {'epoch': int})


def test_old_files_with_the_other_line_ends_are_read_alike(tmp_path):
    rows = [{'epoch': 0, 'lr': 0.1}, {'epoch': 1, 'lr': 0.05, 'eval_top1': 10.0}]
    write_summary(tmp_path, rows)
    path = tmp_path / 'summary.csv'
    path.write_bytes(path.read_bytes().replace(b'\n', b'\r\n'))
    assert read_summary(tmp_path) == rows


def test_every_summary_of_the_repository_is_read():
    paths = list(ROOT.glob('scripts/benchmarks/**/*summary.csv'))
    assert len(paths) > 10
    for path in paths:
        rows = read_csv(path, {'epoch': int})
        assert [row['epoch'] for row in rows] == list(range(len(rows)))
