import pytest

from iebn_zoo.commands.train import main as train
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.recipe import parse_with_recipe
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.util.errors import UsageError


def parse(tmp_path, text, *argv):
    path = tmp_path / 'recipe.yaml'
    path.write_text(text)
    return parse_with_recipe(train_parser(), ['--config', str(path), *argv])


def test_flags_override_recipe_overrides_defaults(tmp_path):
    args = parse(tmp_path, 'lr: 0.3\nepochs: 7\n', '--epochs', '9')
    assert (args.lr, args.epochs, args.momentum) == (0.3, 9, 0.9)


def test_values_get_the_type_of_the_flag(tmp_path):
    args = parse(tmp_path, 'weight-decay: 1e-4\ndecay_milestones: [3, 5]\nmodel_ema: true\nmean: [0.5, 1, 0]\n')
    assert args.weight_decay == 1e-4 and args.decay_milestones == [3, 5] and args.model_ema is True
    assert args.mean == [0.5, 1.0, 0.0]


@pytest.mark.parametrize('text, named', [
    ('learning_rate: 0.1', "unknown key 'learning_rate'"),
    ('epochs: many', "epochs is 'many', expected int"),
    ('epochs: 2.5', 'epochs is 2.5'),
    ('model_ema: 1', 'model_ema is 1, expected true or false'),
    ('epochs: true', 'epochs is True'),
    ('lr: [0.1]', 'expected one value'),
    ('decay_milestones: 3', 'expected a list'),
    ('amp_dtype: int8', 'expected one of bfloat16, float16'),
    ('- a\n- b', 'expected a mapping'),
    ('lr: [', 'no readable YAML'),
])
def test_bad_recipe_is_named(tmp_path, text, named):
    with pytest.raises(UsageError) as e:
        parse(tmp_path, text)
    assert named in str(e.value) and len(str(e.value).splitlines()) <= 3


def test_a_switch_of_the_recipe_can_be_undone(tmp_path):
    text = 'amp: true\nmodel_ema: true\nno_aug: true\nfreeze_stats: true\ngate_stats: true\nbce_loss: true\n'
    names = ('amp', 'model_ema', 'no_aug', 'freeze_stats', 'gate_stats', 'bce_loss')

    def values(*argv, text=text):
        return {getattr(parse(tmp_path, text, *argv), name) for name in names}

    undone = ('--no-amp', '--no-model-ema', '--aug', '--no-freeze-stats', '--no-gate-stats', '--no-bce-loss')
    assert values() == {True} and values(*undone) == {False}
    assert values(text='lr: 0.1\n') == {False}
    assert parse(tmp_path, 'no_aug: false\n', '--no-aug', '--amp').no_aug is True
    switches = [a for a in train_parser()._actions if '--no-amp' in a.option_strings]
    assert switches[0].help == 'mixed precision by autocast'


def test_missing_recipe():
    with pytest.raises(UsageError, match='no recipe at nowhere'):
        parse_with_recipe(train_parser(), ['--config', 'nowhere.yaml'])


def test_shipped_recipe_by_bare_name():
    assert parse_with_recipe(train_parser(), ['--config', 'cifar_resnet20']).model == 'iebn_resnet20_cifar'


def test_the_data_directory_may_stand_alone_as_in_timm(image_folder, tmp_path):
    argv = ['--model', 'iebn_resnet20_cifar', '--model-kwargs', 'layers=(1,1,1)', '--epochs', '1', '--batch-size', '16',
            '-j', '0', '--device', 'cpu', '--output', str(tmp_path / 'run')]
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text('data_dir: nowhere\nopt_args: {nesterov: false}\nlayer_decay: 0.5\n')
    assert train([str(image_folder), '--config', str(recipe), *argv]) == 0
    checkpoint = load_checkpoint(tmp_path / 'run' / LAST)
    assert checkpoint['args']['data_dir'] == str(image_folder) and 'data' not in checkpoint['args']
    groups = checkpoint['optimizer']['param_groups']
    assert {g['nesterov'] for g in groups} == {False} and {g['lr_scale'] for g in groups} >= {1.0, 0.5}
    with pytest.raises(UsageError, match='DATA_DIR is a, and --data-dir is b'):
        train(['a', *argv, '--data-dir=b'])
