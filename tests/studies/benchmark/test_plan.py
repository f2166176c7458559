"""From flags to cases."""
import pytest
import torch

from iebn_zoo.studies.benchmark.arguments import build_parser
from iebn_zoo.studies.benchmark.plan import (
    DEFAULT_MODELS,
    QUICK_MODELS,
    make_cases,
    parse_shape,
    rounds_of,
    settings_of,
)
from iebn_zoo.util.errors import UsageError

CPU, GPU = torch.device('cpu'), torch.device('cuda')


def parse(*flags):
    return build_parser().parse_args(flags)


def test_default():
    cases = make_cases(parse(), CPU)
    layers, models = ([c for c in cases if c.kind == kind] for kind in ('layer', 'model'))
    assert len(layers) == 7 * 3 * 2 and len(models) == 5 * 3 * 2
    assert cases[:len(layers)] == layers and len(set(cases)) == len(cases)
    shapes = {c.name: c.shape for c in models}
    assert list(shapes) == list(DEFAULT_MODELS)
    assert shapes['resnet50'] == shapes['resnext50_32x4d'] == (8, 3, 160, 160)
    assert shapes['resnet164_cifar'] == (128, 3, 32, 32) and shapes['wrn28_10_cifar'] == (16, 3, 32, 32)
    assert layers[0].shape == (8, 64, 80, 80) and len(layers[0].variants) == 7 and len(models[0].variants) == 5
    assert rounds_of(parse()) == 10


def test_default_on_a_gpu():
    cases = make_cases(parse(), GPU)
    shapes = {c.name: c.shape for c in cases}
    assert shapes['resnet50'] == (128, 3, 224, 224) and shapes['wrn28_10_cifar'] == (128, 3, 32, 32)
    assert sum(c.kind == 'layer' for c in cases) == 11 * 3 * 2


def test_quick():
    assert {c.name for c in make_cases(parse('--quick'), CPU) if c.kind == 'model'} == set(QUICK_MODELS)
    assert rounds_of(parse('--quick')) == 5 and rounds_of(parse('--quick', '--rounds', '3')) == 3
    assert {c.name for c in make_cases(parse('--quick', '--models', 'resnet18', '--shapes'), CPU)} == {'resnet18'}


def test_chosen():
    cases = make_cases(parse('--models', 'resnet18', 'resnet18', '--shapes', '2,3,4,5', '2x3x4x5', '-b', '4',
                             '--img-size', '64', '--bench', 'infer', '--variants', 'iebn', '--amp'), CPU)
    assert [(c.kind, c.name, c.shape, c.setting.name, c.mode, c.variants) for c in cases] == [
        ('layer', '2x3x4x5', (2, 3, 4, 5), 'bfloat16', 'infer', ('bn', 'iebn')),
        ('model', 'resnet18', (4, 3, 64, 64), 'bfloat16', 'infer', ('bn', 'iebn'))]


def test_relu_variants_are_of_layers_alone():
    cases = make_cases(parse('--models', 'resnet18', '--shapes', '2,3,4,5', '--variants', 'iebn_relu', 'eca'), CPU)
    assert {c.kind: c.variants for c in cases} == {
        'layer': ('bn', 'eca', 'bn_relu', 'iebn_relu'), 'model': ('bn', 'eca')}
    cases = make_cases(parse('--models', 'resnet18', '--shapes', '2,3,4,5', '--variants', 'folded'), CPU)
    assert {c.kind: c.variants for c in cases} == {'model': ('bn', 'folded')}
    assert {c.kind for c in make_cases(parse('--shapes', '2,3,4,5', '--variants', 'bn_relu'), CPU)} == {'layer'}


@pytest.mark.parametrize('flags, names', [
    ([], ['float32', 'bfloat16', 'float32+channels_last']),
    (['--settings', 'compile', 'channels_last+bfloat16', 'compile'], ['float32+compile', 'bfloat16+channels_last']),
    (['--amp', '--amp-dtype', 'float16', '--channels-last'], ['float16+channels_last']),
    (['--torchcompile'], ['float32+compile']),
])
def test_settings(flags, names):
    assert [s.name for s in settings_of(parse(*flags))] == names


def test_backend():
    assert settings_of(parse('--torchcompile', 'aot_eager'))[0].backend == 'aot_eager'
    assert settings_of(parse('--settings', 'compile'))[0].backend == 'inductor'
    eager, compiled = settings_of(parse('--settings', 'float32', 'compile', '--compile-mode', 'max-autotune'))
    assert (eager.compiler, compiled.compiler) == (None, 'inductor:max-autotune')
    assert settings_of(parse('--torchcompile', '--compile-mode', 'default'))[0].compile_mode == 'default'
    with pytest.raises(UsageError, match='belongs to inductor'):
        settings_of(parse('--torchcompile', 'aot_eager', '--compile-mode', 'default'))


@pytest.mark.parametrize('text', ['', '1,2,3', '1,2,3,4,5', '1,2,3,x', '0,2,3,4', '-1,2,3,4', '1.5,2,3,4', '1, 2,3,4'])
def test_not_a_shape(text):
    with pytest.raises(UsageError, match='is not B,C,H,W'):
        parse_shape(text, train=False)


def test_same_seed_same_weights_and_input():
    case = make_cases(parse('--models', '--shapes', '2,3,4,5', '--seed', '7'), CPU)[0]
    builders = case.builders(CPU)
    assert list(builders) == list(case.variants)
    assert torch.equal(builders['iebn']().x, builders['iebn']().x)
