"""timm's optimizer by the flags, and the learning rate of the gates: a factor of what they would have without it."""
import pytest
import timm
import torch

import iebn_zoo  # noqa: F401 - registers the models
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.optimizer import make_optimizer
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.training.engine.plan import make_plan
from iebn_zoo.util.errors import UsageError

FLAGS = ['--output', 'run', '--epochs', '4', '--lr', '0.5', '--opt', 'momentum', '--momentum', '0', '--sched', 'cosine',
         '--weight-decay', '0.1']


def network(name='iebn_resnet20_cifar', **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, layers=(1, 1, 1), channels=(4, 4, 8), stem_width=4, num_classes=3, **kwargs)


def step(model, *flags):
    """Names and changes of the parameters after one update, with every gradient 1, and the optimizer and schedule."""
    args = TrainSettings.from_flags(train_parser().parse_args([*FLAGS, *flags]))
    optimizer, scheduler = make_optimizer(args, model, updates_per_epoch=1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizer.step()
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}, optimizer, scheduler


@pytest.mark.parametrize('other', [[], ['--layer-decay', '0.5'], ['--weight-decay', '0'], ['--weight-decay-all'],
                                   ['--sched', 'none'], ['--sched', 'plateau']], ids=' '.join)
@pytest.mark.parametrize('scale', ['10', '0.25'])
def test_gates_move_by_the_factor_and_nothing_else_does(scale, other):
    plain, _, _ = step(network(), *other)
    scaled, optimizer, _ = step(network(), '--gate-lr-scale', scale, *other)
    for name, change in plain.items():
        factor = float(scale) if name.endswith(('gate_weight', 'gate_bias')) else 1.0
        assert torch.allclose(scaled[name], change * factor, rtol=1e-5), name
    counted = [id(p) for group in optimizer.param_groups for p in group['params']]
    assert len(counted) == len(set(counted)) == len(plain)


def test_the_schedule_keeps_the_factor():
    _, optimizer, scheduler = step(network(), '--gate-lr-scale', '10')
    scheduler.step(2)
    rates = sorted({round(group['lr'], 6) for group in optimizer.param_groups})
    assert rates == [0.25, 2.5]  # half of the cosine


def test_layer_decay_counts_without_a_schedule():
    with_schedule, _, _ = step(network(), '--layer-decay', '0.5')
    without, _, scheduler = step(network(), '--layer-decay', '0.5', '--sched', 'none')
    assert scheduler is None and without['conv1.weight'].abs().max() < without['fc.weight'].abs().max()
    assert all(torch.allclose(without[name], change) for name, change in with_schedule.items())


def test_an_optimizer_that_wraps_another_moves_the_gates_too():
    plain, _, _ = step(network(), '--opt', 'lookahead_momentum')
    scaled, _, _ = step(network(), '--opt', 'lookahead_momentum', '--gate-lr-scale', '4')
    assert torch.allclose(scaled['bn1.gate_bias'], 4 * plain['bn1.gate_bias'])
    assert torch.equal(scaled['conv1.weight'], plain['conv1.weight'])


@pytest.mark.parametrize('name', ['bn_resnet20_cifar', 'iebn_resnet20_cifar'])
def test_without_gates_to_train_it_is_an_error(name):
    model = network(name)
    for parameter_name, p in model.named_parameters():
        p.requires_grad_('gate' not in parameter_name)
    with pytest.raises(UsageError, match='--gate-lr-scale is 10, but the network has no gates that are trained'):
        step(model, '--gate-lr-scale', '10')


@pytest.mark.parametrize('word, flag', [
    ('lr=9', '--lr'), ('momentum=0.5', '--momentum'), ('weight_decay=0', '--weight-decay'), ('eps=1e-3', '--opt-eps'),
    ('betas=(0,0)', '--opt-betas'), ('layer_decay=1', '--layer-decay'), ('opt=adamw', '--opt'),
    ('filter_bias_and_bn=False', '--weight-decay-all')])
def test_an_argument_with_its_own_flag_is_refused_before_anything_is_opened(word, flag):
    args = TrainSettings.from_flags(train_parser().parse_args([*FLAGS, '--opt-kwargs', 'nesterov=False', word]))
    with pytest.raises(UsageError) as e:
        make_plan(args, torch.device('cpu'))
    assert str(e.value) == f"--opt-kwargs sets {word.partition('=')[0]}, which has its own flag.\nUse {flag}."


@pytest.mark.parametrize('words, said', [
    ('--opt adam --opt-betas 0.9', '--opt-betas is 0.9, and --opt adam takes 2 values.\nIts own are 0.9 0.999.'),
    ('--opt lamb --opt-betas 0.9', 'takes 2 values'),
    ('--opt lookahead_adamp --opt-betas 0.9 0.9 0.9', 'takes 2 values'),
    ('--opt adan --opt-betas 0.9 0.9', 'takes 3 values'),
    ('--opt sgd', '--momentum is 0, and --opt sgd is with Nesterov momentum, which needs one above 0.\nUse --opt mom'),
    ('--opt nonsense', '--opt nonsense: Optimizer nonsense not found in registry\nExpected an optimizer of timm'),
    ('--opt-kwargs foo=1', "argument 'foo'\nExpected an optimizer of timm, such as sgd or adamw, and arguments in --"),
])
def test_what_the_optimizer_does_not_take_is_named_by_its_flag(words, said):
    with pytest.raises(UsageError) as e:
        step(network(), *words.split())
    assert said in str(e.value)


@pytest.mark.parametrize('words, name, value', [
    ('--opt adan --opt-betas 0.9 0.8 0.7', 'betas', (0.9, 0.8, 0.7)),
    ('--opt lookahead_adamw --opt-betas 0.9 0.8', 'betas', (0.9, 0.8)),
    ('--opt sgd --momentum 0.9 --opt-kwargs nesterov=False', 'nesterov', False),
    ('--opt adafactor --opt-betas 0.8', 'beta1', 0.8)])
def test_what_the_optimizer_takes_is_given_to_it(words, name, value):
    _, optimizer, _ = step(network(), *words.split())
    found = optimizer.param_groups[0][name]
    assert (tuple(found) if isinstance(value, tuple) else found) == value
