import json
import math
import os

import pytest
import yaml

from iebn_zoo.studies.compare import arguments
from iebn_zoo.studies.compare.arms import Arm
from iebn_zoo.studies.compare.grid import Cell, found_cells, make_cells
from iebn_zoo.training.run.checkpoint import BEST, LAST
from iebn_zoo.training.run.records import write_summary
from iebn_zoo.util.errors import UsageError
from tests.support.plots.rows import rows


def test_every_model_gets_the_first_seed_before_the_second(tmp_path):
    cells = make_cells([Arm('a', 'net'), Arm('b', 'net')], [3, 5], tmp_path)
    assert [str(c) for c in cells] == ['a seed 3', 'b seed 3', 'a seed 5', 'b seed 5']


def test_a_run_is_started_resumed_or_begun_anew_by_what_lies_there(tmp_path):
    cell = Cell(Arm('bn_resnet20_cifar', 'bn_resnet20_cifar'), 4, tmp_path / 'bn_resnet20_cifar' / 'seed4')
    command = cell.train_command(['--lr', '0.2'], {})
    assert command[1:] == ['-m', 'iebn_zoo', 'train', '--lr', '0.2', '--model', 'bn_resnet20_cifar', '--seed', '4',
                           '--output', str(cell.run)]
    cell.run.mkdir(parents=True)
    assert cell.train_command([], {})[-1] == str(cell.run)
    (cell.run / 'args.yaml').write_text('')
    assert cell.train_command([], {})[-1] == '--overwrite'
    (cell.run / 'last.pth.tar').write_text('')
    assert cell.train_command([], {})[-1] == '--resume'
    assert cell.rows() == [] and not cell.trained(2)
    write_summary(cell.run, rows([1.0]))
    assert not cell.trained(2) and cell.trained(1)
    (tmp_path / 'bn_resnet20_cifar' / 'seed4.log').write_text('')
    assert found_cells(tmp_path) == [cell]


@pytest.mark.parametrize('content', ['epoch,eval_loss,eval_top1\n0,1.0', 'epoch,eval_loss\n0,1.0\n', '\xff\n\x00',
                                     'epoch,eval_loss,eval_top1\n1,1.0,3.0\n', 'epoch,eval_loss,eval_top1\n0,x,3\n'])
def test_a_damaged_log_is_named_and_its_run_goes_on(tmp_path, content):
    cell = Cell(Arm('bn', 'bn_resnet20_cifar'), 0, tmp_path)
    assert cell.damage() is None
    (tmp_path / 'last.pth.tar').write_text('')
    (tmp_path / 'summary.csv').write_text(content, encoding='latin-1')
    assert cell.rows() == [] and 'summary.csv cannot be read' in cell.damage()
    assert not cell.trained(1) and cell.train_command([], {})[-1] == '--resume'


def value_of(command, flag):
    return command[command.index(flag) + 1] if flag in command else None


def test_the_test_split_is_test_and_not_val_and_the_weights_are_those_that_chose(tmp_path):
    cell = Cell(Arm('bn', 'bn_resnet20_cifar'), 0, tmp_path / 'run')

    def command(*flags):
        return cell.test_command(LAST, arguments.resolve(*parsed('--data-dir', str(tmp_path), '--', *flags)))

    (tmp_path / 'val').mkdir()
    assert value_of(command(), '--val-split') is None and '--use-ema' not in command()
    assert value_of(command('--val-split', 'val'), '--val-split') == 'val'
    (tmp_path / 'test.tar').write_text('')
    assert value_of(command(), '--val-split') == value_of(command('--val-split', 'val'), '--val-split') == 'test'
    assert value_of(command('--dataset', 'torch/cifar10'), '--val-split') is None
    assert value_of(command('--dataset', 'torch/image_folder'), '--val-split') == 'test'
    assert '--use-ema' in command('--model-ema') and '--skip-corrupt' in command('--skip-corrupt')


def test_a_figure_is_measured_again_where_it_is_of_something_else(tmp_path):
    cell = Cell(Arm('bn', 'bn_resnet20_cifar'), 0, tmp_path / 'run')
    cell.run.mkdir()
    (tmp_path / 'test').mkdir()
    resolved = arguments.resolve(*parsed('--data-dir', str(tmp_path), '--', '--model-ema'))
    result = cell.run / 'test_last.json'
    for content, done in ((dict(top1=3.0, val_split='test', use_ema=True), True), (dict(top1=3.0), False),
                          (dict(top1=3.0, val_split=None, use_ema=True), False),
                          (dict(top1=3.0, val_split='test', use_ema=False), False), ([], False)):
        result.write_text(json.dumps(content))
        assert (cell.test_command(LAST, resolved) is None) == done
    result.write_text(json.dumps(dict(top1=3.0, val_split='test', use_ema=True)))
    (cell.run / LAST).write_text('')
    later = result.stat().st_mtime_ns + 1
    os.utime(cell.run / LAST, ns=(later, later))
    assert cell.test_command(LAST, resolved) is not None


def test_what_has_diverged_is_not_measured(tmp_path):
    cell = Cell(Arm('bn', 'bn_resnet20_cifar'), 0, tmp_path / 'run')
    cell.run.mkdir()
    resolved = arguments.resolve(*parsed('--data-dir', str(tmp_path)))
    for losses, measured in (((1.0, 1.0), [LAST, BEST]), ((1.0, math.nan), [BEST]), ((math.inf, math.nan), [])):
        write_summary(cell.run, [dict(row, eval_loss=loss) for row, loss in zip(rows([9.0, 9.5]), losses, strict=True)])
        assert [name for name in (LAST, BEST) if cell.test_command(name, resolved)] == measured


def parsed(*argv):
    return arguments.parse(['--data-dir', 'd', '--output', 'o', *argv])


def test_flags_behind_the_dashes_go_to_train():
    args, rest = parsed('--seeds', '1', '2', '--jobs', '2', '--', '--lr', '0.3', '--epochs', '5')
    assert (args.seeds, args.jobs, rest) == ([1, 2], 2, ['--lr', '0.3', '--epochs', '5'])
    resolved = arguments.resolve(args, rest)
    assert (resolved.lr, resolved.epochs, resolved.data_dir) == (0.3, 5, 'd')


@pytest.mark.parametrize('argv, named', [
    (['--', '--seed', '3'], '--seed behind --'), (['--', '--out', 'x'], '--output behind --'),
    (['--jobs', '0'], '--jobs is 0'), (['--seeds', '1', '1'], 'stands there twice'),
    (['--seeds', '-1'], '--seeds has -1'), (['--output', ''], 'no --output given'),
])
def test_mistakes_are_messages(argv, named):
    with pytest.raises(UsageError, match=named):
        arguments.resolve(*parsed(*argv))


def test_a_recipe_differs_by_what_changes_the_training():
    def recipe(*flags):
        kept = arguments.recipe_of(arguments.resolve(*parsed('--', *flags)))
        return yaml.safe_load(yaml.safe_dump(kept, sort_keys=False))

    base = recipe()
    assert arguments.recipe_difference(base, recipe('--workers', '7', '--log-interval', '3')) is None
    changed = recipe('--lr', '0.3', '--mean', '0.5')
    assert arguments.recipe_difference(base, changed) == 'mean: None -> [0.5], lr: 0.1 -> 0.3'
    known = {k: v for k, v in base.items() if k != 'smoothing'}
    assert arguments.recipe_difference(known, base) is None
    assert arguments.recipe_difference(known, recipe('--smoothing', '0.1')) == 'smoothing: 0.0 -> 0.1'
    assert arguments.recipe_difference(dict(base, data='/elsewhere'), base).startswith('data: /elsewhere ->')


def test_the_same_command_has_the_same_recipe_although_yaml_knows_no_tuples():
    now = arguments.recipe_of(arguments.resolve(*parsed('--', '--model-kwargs', 'channels=(16,32,64)')))
    assert arguments.recipe_difference(yaml.safe_load(yaml.safe_dump(now)), now) is None
