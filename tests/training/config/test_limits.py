"""Every flag whose value makes no sense is a message: through the command, before anything is trained or written."""
import argparse

import pytest

from iebn_zoo.cli import main
from iebn_zoo.commands.hub import convert as convert_command
from iebn_zoo.studies.benchmark import arguments as benchmark
from iebn_zoo.studies.compare import arguments as compare
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.limits import LIMITS, check_limits
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.weights.settings import MAX_NUMBER, MAX_SIZE, check_settings
from tests.support.training.datasets import flags

OUTSIDE = '''--smoothing 1.5 | --smoothing -0.5 | --interpolation foo | --train-interpolation foo | --crop-pct -1
--crop-pct 0 | --crop-pct nan | --seed 5000000000 | --seed -1 | --drop 2 | --drop nan | --drop-path 2
--crop-padding -3 | --scale -1 -0.5 | --ratio 0 0 | --scale 5 2 | --color-jitter -1 | --decay-epochs 0 | --in-chans 2
--reprob 2 | --hflip 2 | --vflip -1 | --mixup -1 | --mixup nan | --cutmix inf | --mixup-prob 7 | --mixup-switch-prob -1
--model-ema-decay 5 | --model-ema-decay -1 | --clip-grad -1 | --momentum 3 | --lr nan | --lr inf | --weight-decay nan
--std 0 | --std 1 0 1 | --mean nan | --mean 2e6 | --std 1e6 | --img-size 4097 | --warmup-lr -1 | --min-lr nan
--decay-rate -1 | --cooldown-epochs -2 | --decay-milestones 3 -1 | --decay-milestones 9 3 | --decay-milestones 3 3
--opt-eps -1 | --opt-betas 0.9 1 | --aug-repeats -1 | --holdout nan | --holdout 1 | --bce-target-thresh 2'''
DEEPER = [
    ('--aa nonsense', 'Unknown AA policy nonsense'), ('--torchcompile nonsense', "--torchcompile is 'nonsense'"),
    ('--opt adahessian', 'needs more than one gradient'), ('--opt-betas 0.9 --opt adamw', '--opt adamw'),
    ('--model vgg11 --img-size 32 --grad-checkpointing', 'VGG does not support it'),
    ('--model vit_tiny_patch16_224 --img-size 32', 'does not take images of 3 x 32 x 32'),
    ('--bce-sum', '--bce-sum without --bce-loss'), ('--bce-target-thresh 0.2', 'without --bce-loss'),
    ('--sched step --cooldown-epochs 3', 'has no cooldown'), ('--gp nonsense', 'cannot create'),
]


def message(capsys, *argv):
    code, err = main([str(a) for a in argv]), capsys.readouterr().err
    assert code == 2 and err.startswith('error: ') and len(err.strip().splitlines()) <= 3 and 'Traceback' not in err
    return err


@pytest.mark.parametrize('given', [case.strip() for line in OUTSIDE.splitlines() for case in line.split('|')])
def test_a_value_out_of_range_names_flag_value_and_range(capsys, tmp_path, given):
    flag, *values = given.split()
    err = message(capsys, 'train', *flags(tmp_path, tmp_path / 'run', *given.split()))
    assert f'{flag} is ' in err and 'expected ' in err and all(v in err for v in values if v != 'foo' and '.' in v)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('flag', ['--seed', '--epochs'])
def test_a_number_that_no_float_holds_is_out_of_every_range(capsys, tmp_path, flag):
    err = message(capsys, 'train', *flags(tmp_path, tmp_path / 'run', flag, '1' + 400 * '0'))
    assert f'{flag} is 1000' in err and 'expected ' in err


@pytest.mark.parametrize('given, named', DEEPER)
def test_what_only_the_library_knows_is_a_message_too(capsys, image_folder, tmp_path, given, named):
    assert named in message(capsys, 'train', *flags(image_folder, tmp_path / 'run', *given.split()))
    assert not (tmp_path / 'run').exists()


def test_validate_and_compare_hold_flags_to_the_same_ranges(capsys, image_folder):
    assert '--crop-pct is 2.0, expected above 0 and at most 1' in message(
        capsys, 'validate', '--model', 'resnet18', '--data-dir', image_folder, '--crop-pct', '2')
    with pytest.raises(UsageError, match='--lr is nan'):
        compare.resolve(*compare.parse(['--data-dir', 'd', '--output', 'o', '--', '--lr', 'nan']))


def test_every_limit_is_of_a_flag_and_the_defaults_are_within():
    commands = [vars(parser.parse_args(given)) for parser, given in (
        (train_parser(), []), (benchmark.build_parser(), []), (convert_command.build_parser(), ['--output', 'x']))]
    assert set(LIMITS) <= {name for flags_ in commands for name in flags_}
    for flags_ in commands:
        check_limits(argparse.Namespace(**flags_))


@pytest.mark.parametrize('name, values', [
    ('img_size', [1, MAX_SIZE, MAX_SIZE + 1, 0]), ('mean', [0., -1e5, MAX_NUMBER, -MAX_NUMBER, 1e7]),
    ('std', [1e-3, 1e5, 0., -1., MAX_NUMBER])])
def test_what_training_takes_can_be_opened_afterwards(name, values):
    for value in values:
        try:
            check_settings({name: value if name == 'img_size' else [value]}, 'a file')
            opens = True
        except IEBNZooError:
            opens = False
        assert (value in LIMITS[name]) is opens, value
