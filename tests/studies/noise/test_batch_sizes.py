"""The batch noise of trained networks over batch sizes: its file, and the table and picture that are made of it."""
import math
import statistics

import pytest
from PIL import Image

from iebn_zoo.studies.compare.welch import welch_interval
from iebn_zoo.studies.evidence.documents import END, with_tables
from iebn_zoo.studies.evidence.experiments import find_experiments
from iebn_zoo.studies.evidence.pictures import draw_pictures
from iebn_zoo.studies.noise.batch_sizes import main, read_rows
from iebn_zoo.util.csv_files import write_csv
from iebn_zoo.util.errors import UsageError
from tests.support.hub.exported import make_export
from tests.support.hub.runs import make_run
from tests.support.plots.experiments import write_logs
from tests.support.training.datasets import CLASSES

FEW = ['--batch-sizes', '4', '24', '--probes', '6', '--rounds', '4', '--device', 'cpu']


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp('zoo')
    return [make_run(root / arm / 'seed7', f'{arm}_resnet20_cifar', labels=list(CLASSES), ema=False)
            for arm in ('bn', 'iebn')]


@pytest.fixture(scope='module')
def measured(runs, image_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp('out') / 'noise.csv'
    assert main([*map(str, runs), '--data-dir', str(image_folder), *FEW, '--output', str(path)]) == 0
    return path


def test_a_row_per_network_size_and_norm(measured):
    rows = read_rows(measured)
    norms = 1 + 3 * 2 + 2  # of resnet20_cifar with one block per stage: the stem, the blocks, two shortcuts
    assert len(rows) == 2 * 2 * norms and all(row['seed'] == 7 for row in rows)
    for arm in ('bn', 'iebn'):
        noise = {size: [row['batch_noise'] for row in rows if (row['arm'], row['batch_size']) == (arm, size)]
                 for size in (4, 24)}
        assert min(noise[24]) > 0 and statistics.fmean(noise[4]) > 2 * statistics.fmean(noise[24])
    for row in rows:
        assert row['batch_noise'] == pytest.approx(row['batch_variance'] / row['instance_variance'])


def test_it_is_repeated_to_the_last_digit_and_leaves_the_run(runs, measured, image_folder, tmp_path):
    before = (runs[1] / 'last.pth.tar').read_bytes()
    main([str(runs[1]), '--data-dir', str(image_folder), *FEW, '--output', str(tmp_path / 'a.csv')])
    assert read_rows(tmp_path / 'a.csv') == [row for row in read_rows(measured) if row['arm'] == 'iebn']
    assert (runs[1] / 'last.pth.tar').read_bytes() == before
    with pytest.raises(UsageError, match='a.csv exists'):
        main([str(runs[0]), '--data-dir', str(image_folder), *FEW, '--output', str(tmp_path / 'a.csv')])
    main([str(runs[1]), '--data-dir', str(image_folder), *FEW, '--seed', '1', '--output', str(tmp_path / 'b.csv')])
    assert read_rows(tmp_path / 'b.csv') != read_rows(tmp_path / 'a.csv')  # other images


def test_an_export_under_a_name(image_folder, tmp_path):
    export = make_export(tmp_path / 'exported')
    main([f'iebn={export}', '--data-dir', str(image_folder), *FEW, '--output', str(tmp_path / 'a.csv')])
    rows = read_rows(tmp_path / 'a.csv')
    assert {(row['arm'], row['seed']) for row in rows} == {('iebn', None)} and len(rows) == 2 * 21


@pytest.mark.parametrize('more, said', [
    (['--batch-sizes', '1'], '--batch-sizes is 1, expected at least 2'), (['--rounds', '1'], '--rounds is 1'),
    (['--probes', '47'], '--batch-sizes 24 and --probes 47 need 71 images'),
    (['--output', '/nowhere/a'], 'which is no directory'), (['--seed', '-1'], '--seed is -1'),
    (['--data-dir', 'nowhere'], 'no such directory: nowhere'),
])
def test_mistakes(runs, image_folder, tmp_path, more, said):
    with pytest.raises(UsageError, match=said):
        main([str(runs[0]), '--data-dir', str(image_folder), *FEW, '--output', str(tmp_path / 'a.csv'), *more])
    with pytest.raises(UsageError, match='nowhere has neither last'):
        main([str(runs[0]), 'nowhere', '--data-dir', str(image_folder), '--output', str(tmp_path / 'a.csv')])
    assert not (tmp_path / 'a.csv').exists()


def write_noise(path, values):
    write_csv(path, [dict(arm=arm, seed=seed, batch_size=size, layer=f'bn{i}', channels=4, batch_variance=0.1,
                          instance_variance=1.0, batch_noise=noise + shift)
                     for (arm, size), seeds in values.items() for seed, noise in enumerate(seeds)
                     for i, shift in enumerate((-0.001, 0.001, math.nan))])


def test_the_table_and_the_picture(tmp_path):
    for arm in ('bn', 'iebn'):
        for seed in range(3):
            write_logs(tmp_path / 'zoo', arm, seed, [1.0 + seed + 10 * len(arm)])
    values = {('bn', 8): [0.1, 0.12, 0.14], ('bn', 128): [0.01], ('iebn', 8): [0.2, 0.22, 0.27], ('iebn', 128): [0.02]}
    write_noise(tmp_path / 'zoo' / 'batch_sizes.csv', values)
    experiments = find_experiments([tmp_path])
    text = f'<!-- table: sizes zoo -->\n{END}\n'
    lines = with_tables(text, experiments, tmp_path / 'a.md', tmp_path).splitlines()
    low, high = welch_interval(values['iebn', 8], values['bn', 8])[1:]
    assert lines[1] == '| batch size | BatchNorm | IEBN | IEBN − BatchNorm (95 % interval) |'
    assert lines[3:5] == [
        f'| 8 | 0.1200 ± 0.0200 (n = 3) | 0.2300 ± 0.0361 (n = 3) | **+0.1100 ({low:+.4f} to {high:+.4f})** |',
        '| 128 | 0.0100 (n = 1) | 0.0200 (n = 1) | +0.0100 |']
    path, = draw_pictures(tmp_path, ['zoo/batch_sizes.png'], tmp_path)
    with Image.open(path) as picture:
        assert picture.format == 'PNG' and min(picture.size) > 400
    write_noise(tmp_path / 'zoo' / 'batch_sizes.csv', {('se', 8): [0.1]})
    with pytest.raises(UsageError, match='se is no arm of this experiment'):
        with_tables(text, experiments, tmp_path / 'a.md', tmp_path)
    path = tmp_path / 'zoo' / 'batch_sizes.csv'
    write_noise(path, {('bn', 8): [0.1]})
    header, *lines = path.read_text().splitlines()
    for body, said in ((lines + lines, 'bn, seed 0, batch size 8 twice'), ([], 'has no row with a batch noise')):
        path.write_text('\n'.join([header, *body]) + '\n')
        with pytest.raises(UsageError, match=said):
            with_tables(text, experiments, tmp_path / 'a.md', tmp_path)
    (tmp_path / 'zoo' / 'batch_sizes.csv').write_text('arm,seed\nbn,1\n')
    with pytest.raises(UsageError, match='batch_sizes.csv cannot be read'):
        with_tables(text, experiments, tmp_path / 'a.md', tmp_path)
