"""The command of a card trains with the settings that the run recorded, and names no place of a machine."""
import shlex

import pytest
import yaml

from iebn_zoo.commands.train import build_parser
from iebn_zoo.hub.card.command import is_operation, training_command
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.recipe import parse_with_recipe
from iebn_zoo.util.resources import recipe_names


def settings(*argv):
    return vars(parse_with_recipe(train_parser(), [*argv, '--data-dir', '/home/somebody/data', '--output', '/tmp/run']))


def read_back(command):
    words = shlex.split(command.replace('\\\n', ' '))
    assert words[:2] == ['iebn-zoo', 'train']
    return vars(parse_with_recipe(train_parser(), words[2:]))


def trained(args):
    return {name: value for name, value in args.items() if not is_operation(name)}


@pytest.mark.parametrize('flags', [
    [], ['--no-amp', '--seed', '0'], ['--model-kwargs', 'start=paper', "block_kwargs={'a': [1, 2]}", "name='0.1'"],
    ['--norm-noise', '0.5', '-0.5', '--batch-noise', '--gate-stats'], ['--on-nan', 'rollback', '3', '--no-aug'],
    ['--decay-milestones', '10', '20', '--opt-kwargs', 'nesterov=False', '--torchcompile'],
    ['--weight-decay', '0', '--hflip', '0', '--smoothing', '1e-9', '--dataset', 'hfds/me/animals'],
    ['--model', 'hf-hub:me/x@main', '--pretrained', '--mean', '0.5', '0.25', '0.125'],
], ids=' '.join)
@pytest.mark.parametrize('recipe', ['cifar_30ep', 'imagenet_resnet50_modern', None])
def test_it_reads_back_as_the_settings_of_the_run(recipe, flags):
    args = settings(*(['--config', recipe] if recipe else ['--model', 'resnet18']), *flags)
    args = yaml.safe_load(yaml.safe_dump(args))  # as args.yaml keeps them
    command = training_command(args)
    assert trained(read_back(command)) == trained(args)
    assert ('--config' in command) == (recipe is not None) and 'somebody' not in command and '/tmp' not in command
    assert all(len(line) <= 80 for line in command.splitlines())
    build_parser().parse_args(shlex.split(command.replace('\\\n', ' '))[2:])


@pytest.mark.parametrize('recipe', recipe_names())
def test_a_recipe_alone_needs_no_flag(recipe):
    command = training_command(settings('--config', recipe))
    assert command == f'iebn-zoo train --config {recipe} --data-dir DATA --output RUN'


def test_a_recipe_of_the_users_own_is_written_out(tmp_path):
    (tmp_path / 'mine.yaml').write_text('model: resnet18\nlr: 0.3\n')
    command = training_command(settings('--config', str(tmp_path / 'mine.yaml')))
    assert command == 'iebn-zoo train --model resnet18 --lr 0.3 --data-dir DATA --output RUN'


def test_a_recipe_that_has_since_gained_a_setting_is_written_out():
    args = {**settings('--config', 'cifar_30ep'), 'torchcompile': None}  # no flag undoes the recipe's
    command = training_command(args)
    assert '--config' not in command and trained(read_back(command)) == trained(args)
    unknown = {**args, 'of_another_version': 7}
    assert training_command(unknown) == command


def test_places_are_words():
    args = settings('--model', 'local-dir:/home/somebody/net', '--pretrained', '--dataset', '/home/somebody/patients',
                    '--initial-checkpoint', '/home/somebody/w.pth', '--mix-dataset', '/home/somebody/other',
                    '--mix-dataset-name', '/home/somebody/more', '--mix-count', '3', '--config', 'digits',
                    '--val-split', '/home/somebody/val', '--resume')
    command = training_command(args)
    assert 'somebody' not in command and 'patients' not in command
    for words in ('--model local-dir:net', '--dataset DATASET', '--initial-checkpoint CHECKPOINT',
                  '--mix-dataset OTHER_DATA', '--mix-dataset-name DATASET', '--data-dir DATA',
                  '--output RUN', '--val-split val'):
        assert words in command.replace(' \\\n   ', ''), words
    assert '--resume' not in command


def test_processes_and_start():
    args = settings('--config', 'cifar_30ep')
    assert training_command(args, 4).startswith('torchrun --nproc-per-node 4 -m iebn_zoo train --config cifar_30ep')
    assert '--model-kwargs' not in training_command(args, 1, 'bn')  # the default of the CIFAR networks
    assert '--model-kwargs start=paper' in training_command(args, 1, 'paper')
    assert '--model-kwargs start=bn' in training_command(settings('--model', 'iebn_resnet50'), 1, 'bn')


@pytest.mark.parametrize('args', [{}, {'model': None}, {'lr': 0.1}])
def test_a_run_without_a_model_has_no_command(args):
    assert training_command(args) == ''


@pytest.mark.parametrize('odd', [
    {'amp': 'yes'}, {'lr': {}}, {'lr': []}, {'no_aug': 3}, {'mixup': {'a': 1}}, {'config': 7},
    {'config': ['cifar_30ep']}, {'model_kwargs': [1]}, {'seed': '$(id) `id`'}])
def test_odd_settings_are_no_crash_and_no_other_command(odd):
    command = training_command({**settings('--config', 'cifar_30ep'), **odd})
    words = shlex.split(command.replace('\\\n', ' '))
    assert words[:2] == ['iebn-zoo', 'train'] and '$(id)' not in words
