import pytest

from iebn_zoo.cli import main
from iebn_zoo.commands.plot import read_rows, run_names
from iebn_zoo.training.run.records import read_summary, write_summary, write_timing
from iebn_zoo.util.errors import IEBNZooError
from tests.support.plots.rows import rows, write_run


def plot(capsys, *argv):
    code = main(['plot', *map(str, argv)])
    return code, capsys.readouterr()


def test_plot_lays_runs_over_each_other(tmp_path, capsys):
    runs = [write_run(tmp_path / m, [10.0, 20.0], m) for m in ('bn_resnet20_cifar', 'iebn_resnet20_cifar')]
    code, said = plot(capsys, *runs, '-o', tmp_path / 'a.png')
    assert code == 0 and said.out.strip() == str(tmp_path / 'a.png')
    assert (tmp_path / 'a.png').read_bytes()[:4] == b'\x89PNG'


def test_names_are_the_models_or_what_differs_in_the_paths(tmp_path):
    a, b = write_run(tmp_path / 'x' / 'seed0', [1.0]), write_run(tmp_path / 'x' / 'seed1', [1.0])
    c = write_run(tmp_path / 'y' / 'seed0', [1.0], 'iebn_resnet20_cifar')
    assert run_names([a, c]) == ['bn_resnet20_cifar', 'iebn_resnet20_cifar']
    assert run_names([a, b]) == ['seed0', 'seed1']
    assert run_names([a, b, c]) == ['x/seed0', 'x/seed1', 'y/seed0']
    (c / 'args.yaml').unlink()
    assert run_names([c]) == ['seed0']


@pytest.mark.parametrize('argv, named', [
    (['nowhere'], 'no summary.csv in nowhere'),
    (['{run}', '{run}'], 'two runs are called'),
    (['{run}', '--labels', 'a', 'b'], '2 --labels for 1 runs'),
    (['{run}', '-o', 'a.pdf'], 'a.pdf, expected the name of a PNG'),
])
def test_mistakes_are_messages(tmp_path, capsys, argv, named):
    run = write_run(tmp_path / 'run', [1.0])
    code, said = plot(capsys, *[a.format(run=run) for a in argv])
    assert code == 2 and named in said.err and len(said.err.strip().splitlines()) <= 3


def test_a_damaged_log_is_named(tmp_path):
    (tmp_path / 'summary.csv').write_text('epoch,eval_top1\n0,many\n')
    with pytest.raises(IEBNZooError, match='summary.csv cannot be read'):
        read_rows(tmp_path)


def test_a_log_whose_columns_grow_is_read_as_written(tmp_path):
    grown = [*rows([10.0]), dict(rows([10.0, 20.0])[1], gate_mean_stage1=0.25)]
    write_summary(tmp_path, grown)
    assert read_summary(tmp_path) == grown
    write_timing(tmp_path, [dict(epoch=0, seconds=1.5, images_per_second=20.0)])
    assert (tmp_path / 'timing.csv').read_text().splitlines() == ['epoch,seconds,images_per_second', '0,1.5,20.0']
