import pytest

from iebn_zoo.commands.compare import RECIPE
from iebn_zoo.studies.compare import report
from iebn_zoo.studies.compare.arms import Arm, default_baseline, make_arms
from iebn_zoo.studies.compare.notes import NOTES
from iebn_zoo.util.errors import UsageError


@pytest.mark.parametrize('model, names', [
    ('resnet20_cifar', ['bn_resnet20_cifar', 'se_resnet20_cifar', 'iebn_resnet20_cifar']),
    ('iebn_resnet20_cifar', ['bn_resnet20_cifar', 'se_resnet20_cifar', 'iebn_resnet20_cifar']),
    ('resnet50', ['resnet50', 'seresnet50', 'iebn_resnet50']),
])
def test_a_norm_makes_the_name_of_the_network(model, names):
    assert make_arms(model, ['bn', 'se', 'iebn'], None, None) == [Arm(name, name) for name in names]


def test_an_arm_has_a_name_and_arguments_of_its_own():
    words = [['bn', 'bn_resnet20_cifar'], ['held', 'iebn_resnet20_cifar', 'start=bn', 'freeze_gate_weight=True']]
    bn, held = make_arms(None, None, None, words)
    assert (bn.name, bn.model, bn.kwargs) == ('bn', 'bn_resnet20_cifar', {})
    assert held.kwargs == {'start': 'bn', 'freeze_gate_weight': True}
    assert bn.flags({'start': 'paper', 'gate_downsample': True, 'layers': 3})[2:] == ['--model-kwargs', 'layers=3']
    assert bn.flags({'start': 'paper'})[2:] == ['--model-kwargs']  # in the place of the recipe's
    assert bn.flags({}) == ['--model', 'bn_resnet20_cifar']
    assert held.flags({'layers': [1, 2, 1], 'start': 'paper'}) == [
        '--model', 'iebn_resnet20_cifar', '--model-kwargs', 'layers=[1, 2, 1]', 'start=bn', 'freeze_gate_weight=True']


BN, IEBN = 'bn_resnet20_cifar', 'iebn_resnet20_cifar'


@pytest.mark.parametrize('given, named', [
    ((None, None, None, None), 'which models'), ((BN, None, None, None), 'which models'),
    ((BN, ['bn'], ['resnet50'], None), 'which models'), ((BN, None, ['resnet50'], None), 'which models'),
    ((None, None, ['resnet50'], [['a', BN]]), 'which models'), ((None, ['bn'], None, [['a', BN]]), 'which models'),
    ((BN, ['gn'], None, None), "'gn'"),
    ((None, None, ['iebn_resnet21_cifar'], None), 'Did you mean .*iebn_resnet20_cifar'),
    ((None, None, None, [['a', 'iebn_resnet21_cifar']]), 'Did you mean .*iebn_resnet20_cifar'),
    ((None, None, None, [['a']]), '--arm a: no model'), ((None, None, None, [['a', 'start=bn']]), 'no model'),
    ((None, None, None, [['a', IEBN, 'start']]), "--arm a: 'start' is no KEY=VALUE"),
    ((None, None, None, [['../a', BN]]), "called '../a'"), ((None, None, None, [['.a', BN]]), "called '.a'"),
    ((None, None, None, [['a b', BN]]), "called 'a b'"),
    *[((None, None, None, [[name, BN]]), f"called '{name}', like a file") for name in (
        RECIPE, NOTES, report.RESULTS, report.TABLE, report.RUNS, report.PICTURE, 'Results.CSV')],
    ((None, None, None, [['a', BN], ['a', IEBN]]), 'two arms are called a'),
])
def test_unclear_arms_are_a_message(given, named):
    with pytest.raises(UsageError, match=named):
        make_arms(*given)


@pytest.mark.parametrize('arms, baseline', [
    ([('iebn', IEBN, {}), ('b', BN, {}), ('bn', BN, {'start': 'paper'})], 'bn'),
    ([(IEBN, IEBN, {}), ('slow', BN, {'start': 'paper'}), (BN, BN, {})], BN),
    ([('iebn_resnet50', 'iebn_resnet50', {}), ('resnet50', 'resnet50', {})], 'resnet50'),
    ([('a', IEBN, {}), ('b', 'se_resnet20_cifar', {})], None),
    # an argument that all arms have is none of the arm's own
    ([(IEBN, IEBN, {'start': 'bn', 'layers': [1]}), ('x', BN, {'layers': [1], 'act': 1}),
      (BN, BN, {'layers': [1]})], BN),
    ([(IEBN, IEBN, {}), (BN, BN, {'layers': [1]})], None),
])
def test_the_baseline_is_the_network_without_gates(arms, baseline):
    assert default_baseline([Arm(*arm) for arm in arms]) == baseline
