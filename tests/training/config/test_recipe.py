import pytest

from iebn_zoo.commands.train import main as train
from iebn_zoo.training.config.arguments import known_actions, train_parser
from iebn_zoo.training.config.recipe import parse_with_recipe
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.training.run.records import write_args
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
    ('momentun: 0.9', "unknown key 'momentun'. Did you mean momentum?"),
    ('epochs: many', 'epochs is many, expected a whole number'),
    ('epochs: 2.5', 'epochs is 2.5'),
    ('model_ema: 1', 'model_ema is 1, expected true or false'),
    ('epochs: true', 'epochs is true, expected a whole number'),
    ('lr: [0.1]', 'lr is [0.1], expected a number'),
    ('norm_noise: [0.5]', 'norm_noise is [0.5], expected a list of 2 values, each a number'),
    ('on_nan: stop', 'on_nan is stop, expected a list of values, each a text'),
    ('wandb_tags: [a, null]', 'expected a list of values, each a text'),
    ('resume: yes', 'resume is yes, expected a text, such as auto'),
    ('opt: {name: sgd}', 'opt is {name: sgd}, expected a text'),
    ('lr: 1:30', 'lr is 1:30, expected a number'),
    ('decay_milestones: 3', 'expected a list'),
    ('amp_dtype: int8', 'expected one of bfloat16, float16'),
    ('- a\n- b', 'expected a mapping'),
    ('', 'holds nothing, expected a mapping'),
    ('lr: [', "cannot be read as YAML: expected the node content, but found '<stream end>' (line 1)"),
    ('lr: 0.1\nepochs: 3\nlr: 0.2', 'lr is given twice (line 3)'),
    ('batch_size: 16\nbatch-size: 32', 'batch_size and batch-size are the same flag'),
    ('opt_args: {nesterov: false}\nopt_kwargs: {}', 'opt_args and opt_kwargs are the same flag'),
    ('config: digits', "unknown key 'config'"),
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


@pytest.mark.parametrize('dest', sorted({a.dest for a in known_actions(train_parser())}))
def test_null_is_a_value_of_those_flags_alone_that_have_no_default(tmp_path, dest):
    default = train_parser().get_default(dest)
    if default is None:
        assert getattr(parse(tmp_path, f'{dest}:\n'), dest) is None
        return
    with pytest.raises(UsageError, match=f'{dest} is null, expected ') as e:
        parse(tmp_path, f'{dest}:\n')
    assert f'without it {dest} is ' in str(e.value)


def test_a_word_is_read_as_on_the_command_line(tmp_path):
    args = parse(tmp_path, 'batch_size: 010\nseed: 1_000\nval_split: 2024-01-01\ntrain_split: "no"\nmixup: 2e-1\n'
                           'opt_kwargs: {eps: 1e-8, nesterov: no, name: "1"}\n'
                           'model_kwargs: {layers: [1, 010], block_args: {conv_drop_rate: 3e-1, start: paper}}\n')
    assert (args.batch_size, args.seed, args.val_split, args.train_split) == (10, 1000, '2024-01-01', 'no')
    assert (args.mixup, args.opt_args) == (0.2, {'eps': 1e-8, 'nesterov': False, 'name': '1'})
    assert args.model_kwargs == {'layers': [1, '010'], 'block_args': {'conv_drop_rate': 0.3, 'start': 'paper'}}
    assert {type(v) for v in vars(args).values()} <= {int, float, str, bool, list, dict, type(None)}


def test_the_record_of_a_run_is_a_recipe_without_its_directory(tmp_path):
    asked = train_parser().parse_args(
        ['--output', 'old', '--overwrite', '--config', 'digits', '--lr', '1e-5', '--model-kwargs', 'layers=(1,1,1)',
         'start=paper', '--amp', '--aa', '010', '--wandb-tags', 'yes', '1', '--on-nan', 'rollback', '2'])
    write_args(tmp_path, vars(asked))
    found = parse_with_recipe(train_parser(), ['--config', str(tmp_path / 'args.yaml'), '--output', 'new'])
    expected = dict(vars(asked), config=found.config, output='new', overwrite=False)
    expected['model_kwargs']['layers'] = [1, 1, 1]  # YAML knows no tuples
    assert vars(found) == expected


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
