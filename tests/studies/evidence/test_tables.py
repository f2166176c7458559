"""Tables between the markers of documents: their numbers by hand, and what is refused."""
import pytest

from iebn_zoo.studies.benchmark.results.report import read_rows, write_rows
from iebn_zoo.studies.compare.welch import welch_interval
from iebn_zoo.studies.evidence.documents import END, main, with_tables
from iebn_zoo.studies.evidence.experiments import find_experiments
from iebn_zoo.studies.evidence.timings import read_days
from iebn_zoo.util.errors import UsageError
from tests.support.plots.experiments import grid, write_logs, write_notes


def table(root, words):
    old = f'before\n\n<!-- table: {words} -->\nold\n{END}\n\nafter\n'
    text = with_tables(old, find_experiments([root]), root / 'a.md', root)
    before, body, after = text.partition(f'<!-- table: {words} -->\n')
    lines, end, rest = after.partition(f'\n{END}\n')
    assert (before, rest) == ('before\n\n', '\nafter\n') and body and end
    return lines.splitlines()


def test_norms_beside_each_other(tmp_path):
    grid(tmp_path / 'zoo')
    write_notes(tmp_path / 'half', network='a network', data='some images')
    write_logs(tmp_path / 'half', 'bn', 0, [1.0, 40.0])
    write_logs(tmp_path / 'half', 'bn', 1, [1.0, 41.0])
    write_logs(tmp_path / 'half', 'iebn', 0, [1.0, 44.0])
    write_logs(tmp_path / 'half', 'iebn', 1, [99.0], epochs=2)  # still trains
    low, high = welch_interval([54.0, 55.0, 56.0], [50.0, 51.0, 52.0])[1:]
    assert table(tmp_path, 'norms zoo half') == [
        '| network | data | epochs | n | BatchNorm | SE | IEBN | IEBN − BatchNorm (95 % interval) | hours |',
        '|---|---|---|---|---|---|---|---|---|',
        f'| resnet20_cifar | digits | 2 | 3 | 51.00 ± 1.00 | 52.57 ± 0.50 | 55.00 ± 1.00 | **+4.00 ({low:+.2f} to '
        f'{high:+.2f})** | 0.9 |',
        '| a network | some images | 2 | 2 / 1 | 40.50 ± 0.71 |  | 44.00 | +3.50 | 0.3 |']


def test_norms_that_no_run_has_get_no_column(tmp_path):
    write_logs(tmp_path / 'half', 'bn', 0, [40.0])
    assert table(tmp_path, 'norms half')[0] == (
        '| network | data | epochs | n | BatchNorm | IEBN − BatchNorm (95 % interval) | hours |')


def test_one_line_per_arm(tmp_path):
    grid(tmp_path / 'zoo')
    write_notes(tmp_path / 'zoo', baseline='se', arms=dict(iebn=dict(label='ours, `start=bn`'), se={}, bn={}))
    lines = table(tmp_path, 'arms zoo')
    assert lines[0] == '| network | n | top-1 (%) | difference to SE (95 % interval) |'
    assert [line.split(' | ')[0] for line in lines[2:]] == ['| ours, `start=bn`', '| SE', '| BatchNorm']
    assert '| SE | 3 | 52.57 ± 0.50 |  |' in lines


def test_one_column_per_value_of_a_flag(tmp_path):
    for lr in (0.1, 0.03):
        for seed in range(2):
            write_logs(tmp_path / 'lr' / str(lr), 'bn', seed, [10 + lr + seed], lr=lr)
    write_logs(tmp_path / 'more', 'iebn', 0, [30.0], lr=0.1)
    assert table(tmp_path, 'lr of lr/0.1 lr/0.03 more') == [
        '| network (n = 2) | lr 0.1 | lr 0.03 |', '|---|---|---|', '| BatchNorm | 10.60 ± 0.71 | 10.53 ± 0.71 |',
        '| IEBN | 30.00 (n = 1) |  |']
    with pytest.raises(UsageError, match='lr 0.1 of BatchNorm has been taken'):
        table(tmp_path, 'lr of lr/0.1 lr')
    with pytest.raises(UsageError, match='does not say its rate'):
        table(tmp_path, 'rate of lr')


def write_day(path, ratios):
    write_rows(path, [dict(kind=kind, name=name, input_shape=shape, setting='float32', mode=mode, variant=variant,
                           baseline='bn', ratio=ratio, rounds=3) for (kind, name, shape, mode, variant), ratio
                      in ratios.items()])


def test_times_over_the_days_of_a_benchmark(tmp_path):
    write_logs(tmp_path / 'zoo', 'bn', 0, [1.0])
    layers = [('layer', f'8x{c}x5x5', f'8x{c}x5x5', 'train') for c in (4, 9)]
    net = ('model', 'resnet18', '4x3x96x96', 'infer')
    write_day(tmp_path / 'cpu_float32.csv', {
        (*layers[0], 'iebn'): 4.0, (*layers[1], 'iebn'): 9.0, (*net, 'iebn'): 2.0, (*net, 'se'): 3.0})
    write_day(tmp_path / 'cpu_inference.csv', {(*net, 'iebn'): 1.0, (*net, 'eca'): 7.0})  # measured again; elsewhere
    assert table(tmp_path, 'times cpu_float32') == [
        "| time / BatchNorm's, one day | IEBN | SE |", '|---|---|---|',
        '| `resnet18`, batch 4, 96 px: inference | 1.00 | 3.00 |',
        '| two layer shapes, forward and backward: geometric mean | 6.00 |  |']
    for day, ratio in ((2, 5.0), (10, 1.5)):
        write_day(tmp_path / f'cpu_float32_day{day}.csv', {(*net, 'iebn'): ratio})
    write_day(tmp_path / 'cpu_float32_daily.csv', {(*net, 'iebn'): 100.0})  # no day
    assert '| `resnet18`, batch 4, 96 px: inference | 1.50 (1.00 to 5.00) | 3.00 |' in table(
        tmp_path, 'times cpu_float32')
    assert list(read_days(tmp_path, 'cpu_float32')) == ['day 1', 'day 2', 'day 10']
    (tmp_path / 'cpu_float32_day02.csv').write_bytes((tmp_path / 'cpu_float32_day2.csv').read_bytes())
    with pytest.raises(UsageError, match='are of one day'):
        table(tmp_path, 'times cpu_float32')
    (tmp_path / 'cpu_float32_day02.csv').unlink()
    kept = read_rows(tmp_path / 'cpu_float32_day2.csv')
    write_rows(tmp_path / 'cpu_float32_day3.csv', [dict(row, kept_memory=1) for row in kept])
    with pytest.raises(UsageError, match='was measured with --keep-memory'):
        table(tmp_path, 'times cpu_float32')
    (tmp_path / 'cpu_float32_day3.csv').unlink()
    write_rows(tmp_path / 'cpu_kept_memory.csv', kept)
    with pytest.raises(UsageError, match='resnet18 was measured without --keep-memory'):
        table(tmp_path, 'times cpu_kept_memory')
    write_rows(tmp_path / 'cpu_kept_memory.csv', [dict(row, kept_memory=1) for row in kept])
    assert '| `resnet18`, batch 4, 96 px: inference | 5.00 |' in table(tmp_path, 'times cpu_kept_memory')
    for ratios, said in (({('model', 'resnet18', '64x3x224x224', 'infer', 'iebn'): 1.0}, 'in one of the days alone'),
                         ({(*layers[0], 'iebn'): 1.0}, 'in one of the days alone'), ({(*net, 'iebn'): 0.0}, 'ratio 0'),
                         ({(*net[:3], 'eval', 'iebn'): 1.0}, 'mode eval'), ({(*net[:2], '', 'infer', 'iebn'): 1.0},
                                                                            'shape None')):
        write_day(tmp_path / 'cpu_float32_day3.csv', ratios)
        with pytest.raises(UsageError, match=said):
            table(tmp_path, 'times cpu_float32')
    with pytest.raises(UsageError, match='no benchmark is called cpu'):
        table(tmp_path, 'times cpu')
    with pytest.raises(UsageError, match='cpu_compile.csv cannot be read'):
        table(tmp_path, 'times cpu_compile')


@pytest.mark.parametrize('words, said', [
    ('norms', 'unknown table "norms"'), ('arm zoo', 'unknown table'), ('', 'unknown table'),
    ('arms zoo zoo', 'unknown table'), ('arms nothing', 'no experiment is called nothing'),
    ('arms two', 'two holds 2 experiments'), ('norms odd', 'has no arm of bn, se, iebn'),
    ('norms mixed', 'of two recipes: lr'), ('norms both', 'both BatchNorm'),
    ('arms early', 'holds no complete run'), ('lr of early', 'no complete run'),
])
def test_a_wrong_marker_is_named_with_its_document(tmp_path, words, said):
    grid(tmp_path / 'zoo')
    for place, arm, more in (('two/a', 'bn', {}), ('two/b', 'bn', {}), ('odd', 'first', {}), ('both', 'bn', {}),
                             ('both', 'again', {}), ('early', 'bn', dict(epochs=9)), ('mixed', 'bn', dict(lr=0.1)),
                             ('mixed', 'iebn', dict(lr=0.2))):
        write_logs(tmp_path / place, arm, 0, [1.0 + len(arm)], **more)
    write_notes(tmp_path / 'both', arms=dict(again=dict(norm='bn'), bn={}))
    with pytest.raises(UsageError, match=said) as e:
        table(tmp_path, words)
    assert 'a.md: ' in str(e.value) and len(str(e.value).splitlines()) <= 3


def test_a_table_without_end_eats_no_text(tmp_path):
    grid(tmp_path / 'zoo')
    experiments = find_experiments([tmp_path])
    whole = f'<!-- table: arms zoo -->\n{END}\n'
    for text in (f'<!-- table: arms zoo -->\ntext\n{whole}', '<!-- table: arms zoo -->\ntext\n'):
        with pytest.raises(UsageError, match='"arms zoo" has no end'):
            with_tables(text, experiments, tmp_path / 'a.md', tmp_path)
    shown = f'text with `<!-- table: ... -->` in it\n\n    <!-- table: nothing -->\n    {END}\n'
    assert with_tables(shown, experiments, tmp_path / 'a.md', tmp_path) == shown


def test_no_document_is_written_unless_all_can_be(tmp_path, capsys):
    grid(tmp_path / 'logs' / 'zoo')
    inside, other = tmp_path / 'logs' / 'README.md', tmp_path / 'other.md'
    inside.write_text(f'<!-- table: arms zoo -->\n{END}\n', encoding='utf-8')
    other.write_text(f'<!--table: arms nothing-->\n{END}\n', encoding='utf-8')
    before = inside.read_text(encoding='utf-8')
    with pytest.raises(UsageError, match='other.md: no experiment'):
        main([str(tmp_path / 'logs'), str(other)])
    assert inside.read_text(encoding='utf-8') == before
    other.write_text('no table\n', encoding='utf-8')
    assert main([str(tmp_path / 'logs'), str(other)]) == 0
    assert capsys.readouterr().out.strip() == str(inside) and '| SE |' in inside.read_text(encoding='utf-8')
    assert main([str(tmp_path / 'logs'), str(other)]) == 0 and capsys.readouterr().out == ''
