"""What is committed under scripts/benchmarks is what its logs say: results.csv, tables, pictures."""
import csv
import re
import statistics

import pytest
from PIL import Image

from iebn_zoo.plots import bands, benchmark, overview, style
from iebn_zoo.studies.evidence.documents import with_tables
from iebn_zoo.studies.evidence.experiments import find_experiments
from iebn_zoo.studies.evidence.pictures import find_pictures
from iebn_zoo.studies.evidence.results import write_results
from iebn_zoo.studies.evidence.timings import read_days
from tests.support.paths import ROOT

LOGS = ROOT / 'scripts' / 'benchmarks'
COMMITTED = sorted(path.relative_to(LOGS).as_posix() for path in LOGS.rglob('*.png'))
DOCUMENTS = [ROOT / 'README.md', *sorted(LOGS.rglob('README.md'))]


@pytest.fixture(scope='module')
def experiments():
    return find_experiments([LOGS, ROOT / 'hub_cards'])


@pytest.fixture(scope='module')
def pictures():
    return {picture.name: picture for picture in find_pictures(LOGS)}


def rows_of(path):
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def last_top1(arm):
    return statistics.fmean(float(rows_of(log)[-1]['eval_top1']) for log in (LOGS / arm).glob('seed*/summary.csv'))


def test_results_csv_is_that_of_the_logs(experiments, tmp_path):
    # python -m iebn_zoo.studies.evidence.results scripts/benchmarks hub_cards
    new, old = rows_of(write_results(tmp_path / 'results.csv', experiments)), rows_of(LOGS / 'results.csv')
    assert [(LOGS / row['log']).resolve() for row in old] == [(tmp_path / row['log']).resolve() for row in new]
    assert [dict(row, log='') for row in old] == [dict(row, log='') for row in new]
    assert {(LOGS / row['log']).resolve() for row in old} >= set(LOGS.rglob('summary.csv'))


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_tables_of_documents_are_those_of_the_logs(experiments, path):
    # python -m iebn_zoo.studies.evidence.documents scripts/benchmarks README.md
    text = path.read_text(encoding='utf-8')
    assert with_tables(text, experiments, path, LOGS) == text


def test_every_picture_is_drawn_from_logs_listed_and_shown(pictures):
    assert sorted(pictures) == COMMITTED
    listed = (LOGS / 'README.md').read_text(encoding='utf-8')
    shown = {(path.parent / target).resolve() for path in DOCUMENTS
             for target in re.findall(r'!\[[^]]+\]\(([^)]+\.png)\)', path.read_text(encoding='utf-8'))}
    for name in COMMITTED:
        assert f'| `{name}` |' in listed and (LOGS / name).resolve() in shown, name


@pytest.fixture
def drawn(monkeypatch, pictures, tmp_path):
    """A function that draws a picture into a temporary directory and returns its figure."""
    def draw(name):
        figures = []

        def save(fig, path, kind=None):
            figures.append(fig)
            return real(fig, path, kind)

        real = style.save
        for module in (bands, benchmark, overview, style):  # the modules that draw it have taken the name over
            monkeypatch.setattr(module, 'save', save)
        path = tmp_path / 'a.png'
        pictures[name].draw(path)
        (fig,) = figures
        with Image.open(path) as new, Image.open(LOGS / name) as old:
            assert (new.size, new.format) == (old.size, 'PNG') and path.stat().st_size > 20_000
            assert new.width <= 1110  # 9.2 inches: wider ones have letters too small for a page
        return fig
    return draw


@pytest.mark.parametrize('name, arms', [
    ('start/compare.png', ('bn', 'bn-weight-0.27', 'iebn-start-paper', 'iebn-start-bn', 'iebn-start-bn-frozen')),
    ('finetune/finetune.png',
     ('bn_from_bn', 'iebn_from_bn', 'bn_scratch', 'iebn_scratch', 'iebn_scratch_no_zero_init')),
    ('zero_init_lr/0.03/compare.png', ('bn-zero-init', 'iebn-start-paper-no-zero-init', 'iebn-start-bn-zero-init')),
])
def test_curves_end_where_the_logs_end(drawn, name, arms):
    fig = drawn(name)
    folder = name.rpartition('/')[0]
    assert [line.get_ydata()[-1] for line in fig.axes[1].get_lines()] == pytest.approx(
        [last_top1(f'{folder}/{arm}') for arm in arms])
    words = [text.get_text() for text in fig.legends[0].get_texts()]
    for arm, text in zip(arms, words, strict=True):
        assert text.endswith(f"(n = {len(list((LOGS / folder / arm).glob('seed*')))})"), text
    assert 'CIFAR-100' in fig.get_suptitle() and 'epochs, n = ' in fig.get_suptitle()


def test_the_overview_shows_the_runs_of_the_weights_in_the_package(drawn):
    fig = drawn('overview.png')
    curves = next(axes for axes in fig.axes if axes.get_ylabel() == 'top-1 (%)')
    ends = [line.get_ydata()[-1] for line in curves.get_lines() if len(line.get_ydata())]
    assert ends == pytest.approx([last_top1('zoo/bn'), last_top1('zoo/iebn')])
    seeds = len(list((LOGS / 'zoo' / 'iebn').glob('seed*')))
    assert curves.get_title() == f'resnet20, CIFAR-100, 30 epochs, n = {seeds}'


def test_noise_is_drawn_for_every_run_and_norm(drawn):
    fig = drawn('noise_attacks/noise.png')
    top1, _, layers = fig.axes
    assert [line.get_ydata()[-1] for line in top1.get_lines()] == [25.4, 21.6, 5.4, 8.8, 26.8, 26.0]
    assert [len(line.get_ydata()) for line in layers.get_lines()] == [21] * 6
    assert fig.get_suptitle() == 'resnet20, 20 classes, 3 epochs, n = 1'


def test_the_attacks_show_every_run_in_each_way_of_evaluation(drawn):
    fig = drawn('attacks/attacks.png')
    assert fig.get_suptitle().startswith('resnet20, CIFAR-100, 6 epochs, n = ')
    lasts = [rows_of(path)[-1] for path in (LOGS / 'attacks').glob('*/seed*/summary.csv')]
    columns = [['eval_top1', 'eval_attacked_top1'], ['batch_noise']]
    for axes, names in zip(fig.axes, columns, strict=True):
        points = [x for line in axes.get_lines() if line.get_marker() == 'o' for x in line.get_xdata()]
        expected = [float(row[name]) for row in lasts for name in names if row.get(name)]
        assert sorted(points) == pytest.approx(sorted(expected))


@pytest.mark.parametrize('name', ['cpu_float32', 'cpu_compile'])
def test_a_benchmark_shows_every_day(drawn, name):
    days = read_days(LOGS, name)
    expected = sorted(row['ratio'] for rows in days.values() for row in rows if row['variant'] != row['baseline'])
    points = [x for axes in drawn(f'{name}.png').axes for bars in axes.containers for x in bars.lines[0].get_xdata()]
    assert sorted(points) == pytest.approx(expected) and len(points) > 20


def test_a_benchmark_names_the_processor_of_each_day(drawn):
    title, days = drawn('cpu_float32.png').get_suptitle(), {}
    for day, name in [(1, 'cpu_float32.csv'), *((path.stem.removeprefix('cpu_float32_day'), path.name)
                                                for path in sorted(LOGS.glob('cpu_float32_day*.csv')))]:
        row = rows_of(LOGS / name)[0]
        days.setdefault(f"{row['cpu']}, {row['threads']} threads, torch {row['torch']}", []).append(f'day {day}')
    assert len(days) > 1 and all(f'{words} ({", ".join(own)})' in title for words, own in days.items())
    assert 'AMD EPYC, 2 threads, torch ' in drawn('cpu_compile.png').get_suptitle()
    assert 'day' not in drawn('cpu_compile.png').get_suptitle()


def test_the_table_of_costs_is_that_of_the_csv_files():
    files = [['cpu_float32.csv', 'cpu_inference.csv'], *([path.name] for path in LOGS.glob('cpu_float32_day*.csv'))]
    days = []
    for names in files:
        ratios = {}  # a second file of a day replaces what it measures again
        for name in names:
            ratios.update({(row['kind'], row['name'], row['mode'], row['variant']): float(row['ratio'])
                           for row in rows_of(LOGS / name) if row['setting'] == 'float32' and row['ratio']})
        days.append(ratios)

    def cell(kind, name, mode, variant):
        found = [[ratio for key, ratio in day.items() if key[0] == kind and key[1] in (name or key[1],)
                  and key[2:] == (mode, variant)] for day in days]
        means = sorted(statistics.geometric_mean(values) for values in found if values)
        if not means:
            return ''
        spread = f' ({means[0]:.2f} to {means[-1]:.2f})' if len(means) > 1 else ''
        return f'{statistics.median(means):.2f}{spread}'

    text = (LOGS / 'README.md').read_text(encoding='utf-8')
    for words, kind, name, mode, suffix in (
            ('`resnet50`, batch 8, 160 px: train step', 'model', 'resnet50', 'train', ''),
            ('`resnet50`, batch 8, 160 px: inference', 'model', 'resnet50', 'infer', ''),
            ('`resnet164_cifar`, batch 128, 32 px: train step', 'model', 'resnet164_cifar', 'train', ''),
            ('`resnet164_cifar`, batch 128, 32 px: inference', 'model', 'resnet164_cifar', 'infer', ''),
            ('seven layer shapes, forward and backward: geometric mean', 'layer', None, 'train', ''),
            ('the same with ReLU behind the norm', 'layer', None, 'train', '_relu'),
            ('seven layer shapes, inference: geometric mean', 'layer', None, 'infer', ''),
            ('the same with ReLU behind the norm', 'layer', None, 'infer', '_relu')):
        cells = ' | '.join(cell(kind, name, mode, variant + suffix) for variant in ('iebn', 'naive', 'se', 'eca'))
        assert f'| {words} | {cells} |' in text
