"""What would falsify the mean of an arm is refused: runs of another network, copies, runs of another seed."""
import shutil

import pytest

from iebn_zoo.studies.compare import overview, report
from iebn_zoo.studies.compare.checks import check_grid
from iebn_zoo.studies.compare.grid import found_cells
from iebn_zoo.studies.evidence.documents import main as write_documents
from iebn_zoo.studies.evidence.experiments import find_experiments
from iebn_zoo.util.errors import UsageError
from tests.support.plots.experiments import grid, write_logs, write_notes

IEBN = 'iebn_resnet20_cifar'


def other_model(root):
    run = write_logs(root, 'bn', 3, [30.0, 40.0], model=IEBN)
    return f'{run} holds a run of {IEBN}, and other runs of its arm are of bn_resnet20_cifar'


def other_arguments(root):
    run = write_logs(root, 'iebn', 3, [30.0, 40.0], model_kwargs={'start': 'paper'})
    return f'{run} holds a run of {IEBN} start=paper, and other runs of its arm are of {IEBN}.'


def copy_as_another_seed(root):
    run = shutil.copytree(root / 'bn' / 'seed0', root / 'bn' / 'seed5')
    return f'{run}: args.yaml says seed 0'


def copy_with_a_zero(root):
    run = shutil.copytree(root / 'bn' / 'seed0', root / 'bn' / 'seed00')
    return f"{root / 'bn' / 'seed0' / 'summary.csv'} and {run / 'summary.csv'} are of one arm and seed"


def copied_log(root):
    run = write_logs(root, 'bn', 3, [1.0, 2.0])
    shutil.copy(root / 'bn' / 'seed0' / 'summary.csv', run)
    return f"{root / 'bn' / 'seed0' / 'summary.csv'} and {run / 'summary.csv'} are the same log"


FAULTS = [other_model, other_arguments, copy_as_another_seed, copy_with_a_zero, copied_log]


@pytest.mark.parametrize('fault', FAULTS)
def test_a_grid_is_refused_with_the_run_that_falsifies_it(tmp_path, fault):
    words = fault(grid(tmp_path / 'zoo'))
    document = tmp_path / 'README.md'
    document.write_text('<!-- table: arms zoo -->\n<!-- end of table -->\n')
    for call in (lambda: report.from_logs(tmp_path / 'zoo'), lambda: write_documents([str(tmp_path)]),
                 lambda: find_experiments([tmp_path]), lambda: overview.draw(tmp_path / 'x.png', tmp_path / 'zoo')):
        with pytest.raises(UsageError) as e:
            call()
        assert words in str(e.value) and len(str(e.value).splitlines()) <= 3
    assert not (tmp_path / 'zoo' / 'results.csv').exists() and not (tmp_path / 'x.png').exists()


def test_the_run_that_is_named_is_the_odd_one_of_three(tmp_path):
    for seed, model in enumerate((IEBN, 'bn_resnet20_cifar', 'bn_resnet20_cifar')):
        write_logs(tmp_path, 'a', seed, [float(seed)], model=model)
    with pytest.raises(UsageError, match=f'seed0 holds a run of {IEBN}, and other runs of its arm are of bn_'):
        report.from_logs(tmp_path)


def test_the_notes_may_not_name_another_network_for_a_run_without_args(tmp_path):
    root = grid(tmp_path / 'zoo')
    write_notes(root, arms=dict(iebn=dict(network=IEBN, model_kwargs=dict(start='paper'))))
    find_experiments([tmp_path])
    (root / 'iebn' / 'seed2' / 'args.yaml').unlink()
    with pytest.raises(UsageError, match=f'seed2 holds a run of {IEBN} start=paper, and other runs'):
        find_experiments([tmp_path])


def test_one_network_under_two_names_and_other_folders_are_no_fault(tmp_path):
    write_logs(tmp_path, 'a', 0, [5.0], model=IEBN, model_kwargs={'start': 'bn', 'layers': [1, 1, 1]})
    write_logs(tmp_path, 'a', 1, [6.0], model=IEBN, model_kwargs={'layers': [1, 1, 1], 'start': 'bn'})
    write_logs(tmp_path, 'b', 0, [5.0], model=IEBN)
    (tmp_path / 'a' / 'seed²').mkdir()
    (tmp_path / 'a' / 'seeds').mkdir()
    cells = found_cells(tmp_path)
    assert [str(cell) for cell in cells] == ['a seed 0', 'a seed 1', 'b seed 0']
    check_grid(cells)
