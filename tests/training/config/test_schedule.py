"""The rates of every schedule are those of timm's create_scheduler_v2, also of a run that an earlier version began."""
import copy
import warnings

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.scheduler.scheduler_factory import create_scheduler_v2

from iebn_zoo.commands.train import main as train
from iebn_zoo.hub.card.command import training_command
from iebn_zoo.hub.card.settings import shown_settings
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.optimizer import SCHEDULES, decay_epochs, make_optimizer, training_epochs
from iebn_zoo.training.config.settings import TrainSettings
from iebn_zoo.training.run import resume
from iebn_zoo.training.run.checkpoint import LAST
from iebn_zoo.training.run.records import ARGS
from iebn_zoo.training.run.resume import recipe_changes, with_old_defaults
from iebn_zoo.util.errors import UsageError
from tests.support.training.datasets import flags
from tests.training.kill_and_resume import compare_runs

REFUSED = (ValueError, AssertionError)


def sgd(lr=0.1):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr)


def known(sched):
    """Say whether this version of timm has the schedule; 1.0.30 makes none for a name that it does not know."""
    if sched == 'none':
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', FutureWarning)
            return create_scheduler_v2(sgd(), sched=sched, num_epochs=20, warmup_epochs=2)[0] is not None
    except ValueError:
        return False


KNOWN = [sched for sched in SCHEDULES if known(sched)]


def parsed(*words):
    return TrainSettings.from_flags(train_parser().parse_args([str(word) for word in words]))


def rates(optimizer, scheduler, epochs, updates):
    found = []
    for epoch in range(epochs):
        for update in range(epoch * updates, (epoch + 1) * updates):
            found.append(optimizer.param_groups[0]['lr'])
            if scheduler is not None:
                scheduler.step_update(update + 1, metric=0.)
        if scheduler is not None:
            scheduler.step(epoch + 1, metric=50. - epoch)  # which plateau takes for no progress
    return found


@pytest.mark.filterwarnings('ignore:PlateauLRScheduler is deprecated')  # of the expected rates
@pytest.mark.parametrize('sched', KNOWN)
@settings(max_examples=40, deadline=None)
@given(epochs=st.integers(1, 120), warmup=st.integers(0, 6), lr=st.floats(0.001, 2), on_updates=st.booleans(),
       updates=st.integers(1, 4), cooldown=st.integers(0, 3), given_epochs=st.sampled_from([None, 0.5, 1., 3., 90.]))
def test_the_rates_are_timms(sched, epochs, warmup, lr, on_updates, updates, cooldown, given_epochs):
    args = parsed('--sched', sched, '--epochs', epochs, '--warmup-epochs', warmup, '--lr', lr,
                  *(['--sched-on-updates'] if on_updates else []), '--cooldown-epochs', cooldown,
                  *([] if given_epochs is None else ['--decay-epochs', given_epochs]))
    own = {} if given_epochs is None else {'decay_epochs': given_epochs}
    optimizer = sgd(lr)
    try:
        expected, total = create_scheduler_v2(
            optimizer, sched=sched, num_epochs=epochs, warmup_epochs=warmup, cooldown_epochs=cooldown,
            step_on_epochs=not on_updates, updates_per_epoch=updates, **own)
    except REFUSED:
        with pytest.raises(UsageError):
            make_optimizer(args, torch.nn.Linear(1, 1, bias=False), updates)
        return
    got = make_optimizer(args, torch.nn.Linear(1, 1, bias=False), updates)
    assert rates(*got, total + 2, updates) == rates(optimizer, expected, total + 2, updates)
    if total > epochs or not cooldown:
        assert training_epochs(args) == total


@pytest.mark.parametrize('sched', KNOWN)
def test_what_a_card_says_of_the_default_is_what_timm_does(sched):
    found = []
    for words in ((), ('--decay-epochs', decay_epochs(None, sched))):
        args = parsed('--sched', sched, '--epochs', 200, '--warmup-epochs', 2, *words)
        found.append(rates(*make_optimizer(args, torch.nn.Linear(1, 1, bias=False), 1), 200, 1))
    assert found[0] == found[1]


@pytest.mark.parametrize('words, said', [
    ('--sched nothing', 'Expected cosine, step, multistep, poly, tanh, wsd, rsqrt, constant, plateau or none'),
    ('--sched rsqrt', '--warmup-epochs is 0, and the rate of --sched rsqrt'),
    ('--sched wsd --epochs 20 --decay-epochs 90', 'Give --decay-epochs from 1 to 20'),
    ('--sched wsd --epochs 20 --warmup-epochs 5 --decay-epochs 16', 'Give --decay-epochs from 1 to 15'),
    ('--sched wsd --epochs 2', 'or a share of these below 1 (default: 0.2)'),
    ('--sched wsd --epochs 5 --warmup-epochs 5', 'Give more --epochs than --warmup-epochs, which is 5')])
def test_what_a_schedule_cannot_do_names_the_flag(words, said):
    if words.split()[1] not in (*KNOWN, 'nothing'):
        said = 'has no such schedule'
    with pytest.raises(UsageError) as e:
        training_epochs(parsed(*words.split()))
    assert said in str(e.value) and len(str(e.value).splitlines()) == 2


@pytest.mark.skipif('wsd' not in KNOWN, reason='this timm has no wsd')
def test_a_share_of_few_epochs_counts_in_updates():
    assert training_epochs(parsed('--sched', 'wsd', '--epochs', 2, '--sched-on-updates')) == 2


@pytest.mark.parametrize('sched', ['nothing', 'wsd'])
def test_a_schedule_that_timm_takes_no_notice_of_is_refused(monkeypatch, sched):
    # timm 1.0.30 makes no schedule for such a name, and says nothing
    monkeypatch.setattr('iebn_zoo.training.config.optimizer.create_scheduler_v2', lambda *args, **kwargs: (None, 100))
    with pytest.raises(UsageError, match=f'--sched {sched}: timm .* has no such schedule.\n.*need timm 1.0.31'):
        training_epochs(parsed('--sched', sched))
    assert training_epochs(parsed('--sched', 'none')) == 100


def test_plateau_does_not_say_that_a_resume_loses_its_state():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert training_epochs(parsed('--sched', 'plateau')) == 100


@pytest.mark.parametrize('sched, then, now, changes', [
    ('cosine', 90, None, []), ('step', 90, None, []), ('step', None, 90.0, []), ('step', 30, None, ['90']),
    ('wsd', 90, None, ['0.2']), ('wsd', None, None, []), ('wsd', 0.2, None, []), ('rsqrt', 0.2, 0.3, ['0.3'])])
def test_the_default_and_the_same_number_are_one_recipe(sched, then, now, changes):
    found = recipe_changes(dict(sched=sched, decay_epochs=then), dict(sched=sched, decay_epochs=now), {})
    assert [line.split(' -> ')[1] for line in found] == changes


def test_only_the_old_default_is_taken_from_the_checkpoint():
    args = parsed('--sched', 'wsd')
    assert with_old_defaults(args, {'args': {'decay_epochs': 90}}).decay_epochs == 90
    for recorded in ({'args': {'decay_epochs': 30}}, {'args': {'decay_epochs': None}}, {'args': {}}, {}, {'args': 3}):
        assert with_old_defaults(args, recorded) is args
    own = parsed('--sched', 'wsd', '--decay-epochs', '0.5')
    assert with_old_defaults(own, {'args': {'decay_epochs': 90}}) is own


@pytest.mark.parametrize('sched', [sched for sched in ('step', 'wsd') if sched in KNOWN])
def test_a_run_begun_with_the_old_default_goes_on_with_its_rates(image_folder, tmp_path, monkeypatch, sched):
    monkeypatch.setattr(resume, '_OLD_DECAY_EPOCHS', 3)  # 90 epochs would take long
    small = ('--epochs', '5', '--sched', sched, '--img-size', '16', '--no-aug', '--model-kwargs', 'layers=(1,1,1)',
             '--checkpoint-hist', '5', '--model-ema')
    runs = [tmp_path / name for name in ('whole', 'resumed')]
    for run in runs:
        train(flags(image_folder, run, *small, '--decay-epochs', '3'))
    (runs[1] / 'checkpoint-2.pth.tar').replace(runs[1] / LAST)
    train(flags(image_folder, runs[1], *small, '--resume'))
    assert compare_runs(*runs) == []
    assert yaml.safe_load((runs[1] / ARGS).read_text())['decay_epochs'] == 3


def test_the_card_of_an_earlier_run_has_the_command_and_the_settings_that_it_had():
    plain = vars(train_parser().parse_args(['--model', 'resnet18', '--sched', 'step']))
    for value, command, shown in ((None, '', '90'), (90, '', '90'), (30.0, ' --decay-epochs 30.0', '30.0')):
        args = {**copy.deepcopy(plain), 'decay_epochs': value}
        words = training_command(args).replace(' \\\n   ', '')
        assert words == f'iebn-zoo train --model resnet18 --sched step{command} --data-dir DATA --output RUN'
        assert shown_settings(args, (3, 32, 32))['decay_epochs'] == shown
    wsd = {**plain, 'sched': 'wsd', 'decay_epochs': 90}
    assert '--decay-epochs 90' in training_command(wsd)
    assert shown_settings({**wsd, 'decay_epochs': None}, (3, 32, 32))['decay_epochs'] == '0.2'
