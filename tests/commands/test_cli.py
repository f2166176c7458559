import argparse
from importlib import import_module

import pytest

from iebn_zoo import cli
from iebn_zoo.studies.benchmark.gpu import check
from iebn_zoo.util.command_line.flags import add_use_ema
from iebn_zoo.util.command_line.parser import Parser, shown_default

BUILDERS = {name: module for name, (module, _) in cli.COMMANDS.items()}


def parser_of(name):
    return import_module(BUILDERS[name]).build_parser()


def failed(capsys, parse, *argv):
    with pytest.raises(SystemExit) as caught:
        parse(list(argv))
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize('parser', [*map(parser_of, BUILDERS), check.build_parser()], ids=[*BUILDERS, 'gpu check'])
def test_every_flag_has_a_text_and_shows_its_default(parser):
    assert isinstance(parser, Parser)
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        assert action.help and len(action.help.split()) > 1, action.dest
        shown = parser.formatter_class('x')._get_help_string(action)
        default = shown_default(action)
        assert default is None or 'default' in shown, action.dest
        if 'all' not in shown:  # a long list is told in words
            assert default is None or default in shown or 'default)' in shown, action.dest
        assert shown.count('default:') <= 1, action.dest
    assert 'show this help message' in parser.format_help()
    titles = [group.title for group in parser._action_groups]
    assert len(titles) == len(set(titles)), titles


def test_the_help_groups_all_commands_in_one_line_each(capsys):
    assert sorted(name for names in cli.GROUPS.values() for name in names) == sorted(cli.COMMANDS)
    assert cli.main(['--help']) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (_, text) in cli.COMMANDS.items():
        assert sum(line.split() == [name, *text.split()] for line in lines) == 1
    assert all(f'{group}:' in lines for group in ('look', 'train', 'share', 'measure'))
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize('word, hint', [
    ('trian', 'Did you mean train?'), ('plot_noise', 'Did you mean plot-noise?'),
    ('--verson', 'Did you mean --version?'), ('xyzzy', 'Expected one of models, ')])
def test_a_mistyped_command(capsys, word, hint):
    assert cli.main([word]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f'error: unknown command {word!r}.' and lines[1].startswith(hint) and len(lines) == 3


@pytest.mark.parametrize('command, argv, hint', [
    ('train', ['--epoks', '3'], '--epochs'), ('train', ['--no-ampp'], '--no-amp'), ('predict', ['--topk=3'], '--top-k'),
    ('export', ['--outptu', 'x'], '--output'), ('convert', ['--fould'], '--fold'), ('benchmark', ['--gppu'], '--gpu')])
def test_a_mistyped_flag_is_named_before_anything_else(capsys, command, argv, hint):
    lines = failed(capsys, parser_of(command).parse_args, *argv).splitlines()
    assert lines[0] == f"error: unknown flag {argv[0].partition('=')[0]}." and lines[1] == f'Did you mean {hint}?'
    assert lines[2].startswith('usage: ') and lines[2].endswith('--help') and len(lines) == 3


def test_a_mistyped_flag_shows_no_value_and_other_errors_are_two_lines(capsys):
    err = failed(capsys, parser_of('push').parse_args, 'x', '--repo-id', 'a/b', '--tokeen=hf_secret')
    assert 'unknown flag --tokeen.' in err and 'secret' not in err
    err = failed(capsys, parser_of('export').parse_args, 'run').splitlines()
    assert len(err) == 2 and '--output' in err[0] and 'RUN --output DIR [FLAGS]' in err[1]


def test_flags_may_be_shortened_and_texts_may_begin_with_dashes():
    assert parser_of('train').parse_args(['--epoch', '3']).epochs == 3
    assert parser_of('push').parse_args(['x', '--repo-id=a/b', '--commit-message=--x']).commit_message == '--x'
    assert parser_of('plot').parse_args(['--labels', 'a', '--', '--run']).runs == ['--run']


@pytest.mark.parametrize('command, argv', [
    ('predict', ['s', 'i']), ('gates', ['s', 'i']), ('validate', []), ('convert', ['--output', 'x']),
    ('export', ['r', '--output', 'x'])])
def test_both_names_of_the_ema_flag(command, argv):
    parser = parser_of(command)
    for flag in ('--use-ema', '--ema'):
        assert parser.parse_args([*argv, flag]).use_ema is True
    assert parser.parse_args(argv).use_ema in (False, None)
    assert '--use-ema' in parser.format_help() and '--ema' not in parser.format_help().replace('--use-ema', '')


@pytest.mark.parametrize('flag', ['--compile-mode', '--torchcompile-mode'])
def test_both_names_of_the_compile_mode(flag):
    assert parser_of('train').parse_args([flag, 'max-autotune']).torchcompile_mode == 'max-autotune'
    assert parser_of('validate').parse_args([flag, 'max-autotune']).torchcompile_mode == 'max-autotune'
    assert parser_of('benchmark').parse_args([flag, 'max-autotune']).compile_mode == 'max-autotune'


def test_the_ema_flag_can_be_negated_in_export():
    assert parser_of('export').parse_args(['r', '--output', 'x', '--no-ema']).use_ema is False
    assert parser_of('export').parse_args(['r', '--output', 'x', '--no-use-ema']).use_ema is False
    parser = Parser()
    add_use_ema(parser, 'x')
    assert parser.parse_args([]).use_ema is False


@pytest.mark.parametrize('command', ['train', 'compare'])
def test_config_lists_the_shipped_recipes(command):
    text = ' '.join(parser_of(command).format_help().split())
    assert 'cifar_resnet20,' in text and 'imagenet_resnet50_modern' in text


def test_an_unknown_recipe_names_the_shipped_ones():
    from iebn_zoo.training.config.recipe import parse_with_recipe
    from iebn_zoo.util.errors import UsageError
    text = '(?s)no recipe at cifar_resnet2.*Did you mean cifar_resnet20.*imagenet_resnet50'
    with pytest.raises(UsageError, match=text):
        parse_with_recipe(parser_of('train'), ['--config', 'cifar_resnet2'])


@pytest.mark.parametrize('argv', [
    ('validate', '--model', 'bn_resnet20_cifar.cifar100', '--use-ema', '--data-dir', 'x'),
    ('convert', '--model', 'bn_resnet20_cifar.cifar100', '--pretrained', '--use-ema', '--output', 'out')])
def test_ema_weights_that_there_are_not(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(list(argv)) == 2
    assert '--use-ema is for --checkpoint of a training run' in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize('argv', [
    ('predict', '{}', 'a.png'), ('export', '{}', '--output', 'out'), ('verify', '{}'),
    ('validate', '--checkpoint', '{}'),
    ('convert', '--model', 'bn_resnet20_cifar.cifar100', '--pretrained', '--output', '{}'),
    ('train', '{}', '--output', 'out')])
def test_a_name_that_no_file_system_takes(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([word.format('x' * 300) for word in argv]) in (1, 2)
    err = capsys.readouterr().err
    assert err.startswith('error: ') and len(err.splitlines()) <= 3 and not list(tmp_path.iterdir())
