"""Runs under noise attacks: which reading a column is, numbers by hand, and what is refused."""
import shutil

import pytest

from iebn_zoo.studies.compare.welch import contrast_interval, welch_interval
from iebn_zoo.studies.evidence.attacks import read_attacks
from iebn_zoo.studies.evidence.experiments import find_experiments
from iebn_zoo.studies.evidence.pictures import draw_pictures, find_pictures
from iebn_zoo.training.run.records import read_summary, write_summary
from iebn_zoo.util.errors import UsageError
from tests.studies.evidence.test_tables import table
from tests.support.plots.experiments import write_logs, write_notes

NOISE = dict(norm_noise=[0.8, 0.5])
SEEDS = range(3)


def write_arm(root, arm, top1, other=None, noise=None, **flags):
    for seed, value in enumerate(top1):
        first = value - 5 - len(flags) - len(arm) / 100 - seed / 1000  # no two logs alike
        run = write_logs(root, arm, seed, [first, value], model=f"{arm.split('-')[0]}_resnet20_cifar", **flags)
        rows = [dict(row) for row in read_summary(run)]
        for row in rows:
            if other is not None:
                row[f'eval_{other[0]}_top1'] = other[1][seed] - 5 * (row is rows[0])
            if noise is not None:
                row['batch_noise'] = noise[seed]
        write_summary(run, rows)


@pytest.fixture
def attacked(tmp_path):
    root = tmp_path / 'noise'
    for attack, flags, other, gain in (('none', {}, None, 0.0), ('norm', NOISE, 'attacked', 30.0),
                                       ('mix', dict(mix_dataset='/x/digits', mix_count=16), None, 0.0)):
        for norm, start in (('bn', 20.0), ('iebn', 22.0)):
            top1 = [start + seed for seed in SEEDS]
            write_arm(root, f'{norm}-{attack}', top1, other and (other, [value + gain for value in top1]),
                      [0.01 * start + 0.001 * seed for seed in SEEDS], **flags)
    write_notes(root, arms={f'{norm}-{attack}': dict(norm=norm) for attack in ('none', 'norm', 'mix')
                            for norm in ('bn', 'iebn')})
    return tmp_path


def test_both_readings_beside_each_other(attacked):
    low, high = welch_interval([22.0, 23.0, 24.0], [20.0, 21.0, 22.0])[1:]
    few, many = welch_interval([0.22, 0.221, 0.222], [0.2, 0.201, 0.202])[1:]
    clean = (f'3 | 21.00 ± 1.00 | 23.00 ± 1.00 | +2.00 ({low:+.2f} to {high:+.2f})')
    noisy = clean.replace('21.00', '51.00').replace('23.00', '53.00')
    noise = f'0.2010 ± 0.0010 | 0.2210 ± 0.0010 | **+0.0200 ({few:+.4f} to {many:+.4f})**'
    assert low < 0 < few
    lead, no_lead = [22.0, 23.0, 24.0], [20.0, 21.0, 22.0]
    below, above = contrast_interval([(1, lead), (-1, no_lead), (-1, lead), (1, no_lead)])[1:]
    change = f'+0.00 ({below:+.2f} to {above:+.2f})'
    assert table(attacked, 'attacks noise') == [
        '| attack in training | evaluation | n | BatchNorm | IEBN | IEBN − BatchNorm (95 % interval) | change by '
        'the attack (95 % interval) | batch noise, BatchNorm | batch noise, IEBN | difference (95 % interval) |',
        '|---|---|---|---|---|---|---|---|---|---|',
        f'| no attack | clean | {clean} |  | {noise} |', f'| Na 0.8, Nb 0.5 | clean | {clean} |  | {noise} |',
        f'| Na 0.8, Nb 0.5 | under the same noise | {noisy} | {change} |  |  |  |',
        f'| 16 of digits | clean | {clean} | {change} | {noise} |']


def test_a_run_whose_evaluation_is_attacked_names_the_other_reading(tmp_path):
    root = tmp_path / 'noise'
    for norm in ('bn', 'iebn'):
        write_arm(root, norm, [50.0, 51.0], ('clean', [30.0, 31.0]), norm_noise_eval=True, **NOISE)
    clean, under_noise = read_attacks(find_experiments([tmp_path])[0])
    assert (clean.evaluation, clean.top1['iebn']) == ('clean', [30.0, 31.0])
    assert (under_noise.evaluation, under_noise.top1['bn']) == ('under the same noise', [50.0, 51.0])
    assert clean.noise == {}
    assert 'batch noise' not in '\n'.join(table(tmp_path, 'attacks noise'))


def test_a_reading_that_some_seeds_lack_is_left_out(tmp_path):
    root = tmp_path / 'noise'
    write_arm(root, 'bn', [50.0, 51.0], ('attacked', [60.0, 61.0]), **NOISE)
    write_arm(root, 'iebn', [52.0, 53.0], ('attacked', [60.0, 61.0]), **NOISE)
    rows = [{key: value for key, value in row.items() if 'attacked' not in key}
            for row in read_summary(root / 'iebn' / 'seed1')]
    write_summary(root / 'iebn' / 'seed1', rows)
    clean, under_noise = read_attacks(find_experiments([tmp_path])[0])
    assert clean.top1 == {'bn': [50.0, 51.0], 'iebn': [52.0, 53.0]} and under_noise.top1 == {'bn': [60.0, 61.0]}
    assert table(tmp_path, 'attacks noise')[-1].startswith(
        '| Na 0.8, Nb 0.5 | under the same noise | 2 / 0 | 60.50 ± 0.71 |  |  |')


def test_the_picture_and_its_name(attacked):
    assert [picture.name for picture in find_pictures(attacked)] == ['noise/attacks.png']
    path, = draw_pictures(attacked, [], attacked)
    assert path.read_bytes().startswith(b'\x89PNG')


def test_unfinished_runs_do_not_count(tmp_path):
    for norm in ('bn', 'iebn'):
        write_arm(tmp_path / 'noise', norm, [50.0], epochs=3, **NOISE)
    assert draw_pictures(tmp_path, [], tmp_path) == []
    with pytest.raises(UsageError, match='no complete run'):
        table(tmp_path, 'attacks noise')


def test_what_is_refused(attacked):
    root = attacked / 'noise'
    shutil.copytree(root / 'bn-norm', root / 'again')
    for seed in SEEDS:
        rows = [dict(row, train_loss=row['train_loss'] + 1) for row in read_summary(root / 'again' / f'seed{seed}')]
        write_summary(root / 'again' / f'seed{seed}', rows)
    with pytest.raises(UsageError, match='both BatchNorm, Na 0.8, Nb 0.5'):
        table(attacked, 'attacks noise')
    assert [picture.name for picture in find_pictures(attacked)] == ['noise/compare.png']  # as without a pairing
    shutil.rmtree(root / 'again')
    shutil.rmtree(root / 'iebn-mix')
    write_arm(root, 'iebn-mix', [22.0] * 3, lr=0.7, mix_dataset='/x/digits', mix_count=16)
    write_notes(root, arms={arm.name: dict(norm=arm.name.split('-')[0]) for arm in root.glob('*-*')})
    with pytest.raises(UsageError, match='two recipes: lr'):
        table(attacked, 'attacks noise')


@pytest.mark.parametrize(('model', 'said'), [
    ('resnet18', 'iebn stands for no norm'),
    ('iebn_resnet110_cifar', 'are of resnet20_cifar and of resnet110_cifar'),
])
def test_arms_that_cannot_be_compared(tmp_path, model, said):
    root = tmp_path / 'noise'
    write_logs(root, 'one', 0, [50.0], model='bn_resnet20_cifar', **NOISE)
    write_logs(root, 'two-iebn', 0, [51.0], model=model, **NOISE)
    with pytest.raises(UsageError, match=said):
        table(tmp_path, 'attacks noise')


def test_an_attack_that_nothing_tells_is_not_taken_for_none(attacked):
    run = attacked / 'noise' / 'iebn-norm' / 'seed1'
    args = (run / 'args.yaml').read_text()
    (run / 'args.yaml').unlink()
    with pytest.raises(UsageError, match='iebn-norm/seed1 does not say its attack'):
        table(attacked, 'attacks noise')
    (run / 'args.yaml').write_text(args.replace('0.5', '0.6'))
    with pytest.raises(UsageError, match='holds runs under Na 0.8, Nb 0.5 and under Na 0.8, Nb 0.6'):
        table(attacked, 'attacks noise')


def test_an_old_run_under_noise_in_evaluation_has_no_clean_reading(tmp_path):
    for norm in ('bn', 'iebn'):
        write_arm(tmp_path / 'noise', norm, [50.0, 51.0], norm_noise_eval=True, **NOISE)
    line, = read_attacks(find_experiments([tmp_path])[0])
    assert line.evaluation == 'under the same noise' and line.top1['bn'] == [50.0, 51.0]


def test_moving_averages_and_noise_that_is_no_number(tmp_path):
    for norm in ('bn', 'iebn'):
        write_arm(tmp_path / 'noise', norm, [50.0, 51.0], ('attacked', [30.0, 31.0]), [0.1, float('nan')], **NOISE)
        for seed in range(2):
            run = tmp_path / 'noise' / norm / f'seed{seed}'
            write_summary(run, [dict(row, eval_ema_top1=60.0 + seed, eval_ema_loss=1.0) for row in read_summary(run)])
    line, = read_attacks(find_experiments([tmp_path])[0])  # the other reading of the average was not measured
    assert line.top1['iebn'] == [60.0, 61.0] and line.evaluation == 'clean' and line.noise == {}


def test_another_norm_has_its_column(attacked):
    write_arm(attacked / 'noise', 'se-norm', [21.5, 22.0, 23.5], **NOISE)
    lines = table(attacked, 'attacks noise')
    assert '| BatchNorm | SE | IEBN | IEBN − BatchNorm' in lines[0]
    assert lines[3].startswith('| Na 0.8, Nb 0.5 | clean | 3 | 21.00 ± 1.00 | 22.33 ± 1.04 | 23.00 ± 1.00 |')
    assert lines[4].startswith('| Na 0.8, Nb 0.5 | under the same noise | 3 / 0 / 3 |')
