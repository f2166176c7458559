"""The settings that a card shows are those that were on."""
import pytest

from iebn_zoo.hub.card.settings import shown_settings
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.recipe import parse_with_recipe


def shown(*argv, size=(3, 32, 32), **more):
    return shown_settings({**vars(parse_with_recipe(train_parser(), list(argv))), **more}, size)


def test_a_plain_run():
    assert shown('--config', 'cifar_resnet20', '--data-dir', '/home/me/x', '--output', 'y', '-j', '4') == {
        'model': 'iebn_resnet20_cifar', 'epochs': '10', 'batch_size': '128', 'opt': 'sgd', 'lr': '0.1',
        'momentum': '0.9', 'weight_decay': '0.0001', 'sched': 'cosine', 'seed': '42', 'hflip': '0.5',
        'sched_on_updates': 'True', 'crop_padding': '4'}


@pytest.mark.parametrize('flags, on, off', [
    ([], {}, ['model_ema', 'model_ema_decay', 'mixup', 'mixup_prob', 'amp_dtype', 'warmup_lr', 'decay_rate', 'reprob']),
    (['--model-ema'], {'model_ema': 'True', 'model_ema_decay': '0.9998'}, ['model_ema_warmup']),
    (['--model-ema-decay', '0.9'], {}, ['model_ema_decay']),
    (['--amp'], {'amp': 'True', 'amp_dtype': 'bfloat16'}, []),
    (['--mixup', '0.2'], {'mixup': '0.2', 'mixup_prob': '1.0'}, ['mixup_switch_prob', 'cutmix']),
    (['--mixup', '0.2', '--cutmix', '1'], {'cutmix': '1.0', 'mixup_switch_prob': '0.5'}, []),
    (['--mixup-prob', '0.3'], {}, ['mixup_prob']),
    (['--sched', 'step'], {'decay_epochs': '90', 'decay_rate': '0.1'}, ['decay_milestones']),
    (['--sched', 'multistep'], {'decay_milestones': '[90, 180, 270]', 'decay_rate': '0.1'}, ['decay_epochs']),
    (['--warmup-epochs', '5'], {'warmup_epochs': '5', 'warmup_lr': '1e-05'}, []),
    (['--weight-decay', '0', '--hflip', '0'], {'weight_decay': '0.0'}, ['hflip']),
    (['--no-aug'], {'no_aug': 'True'}, ['crop_padding', 'aug']),
    (['--gate-stats', '--batch-noise', '--log-interval', '7', '--device', 'cpu'], {},
     ['gate_stats', 'batch_noise', 'log_interval', 'device']),
    (['--mix-dataset', 'x', '--mix-dataset-name', 'torch/mnist', '--mix-count', '3'],
     {'mix_count': '3', 'mix_dataset_name': 'torch/mnist'}, ['mix_dataset']),
    (['--mix-dataset', 'x', '--mix-dataset-name', '/home/somebody/y'], {'mix_dataset_name': 'DATASET'}, []),
    (['--model-kwargs', 'start=bn'], {'model_kwargs': '{start: bn}'}, []),
])
def test_only_what_was_on(flags, on, off):
    found = shown('--model', 'resnet18', *flags)
    assert on.items() <= found.items() and not set(off) & set(found)


def test_padding_belongs_to_its_crop_mode():
    assert 'crop_padding' not in shown(size=(3, 224, 224))
    assert shown('--train-crop-mode', 'pad', size=(3, 224, 224))['crop_padding'] == '4'
    assert 'crop_padding' not in shown('--train-crop-mode', 'rrc')


def test_no_settings_and_settings_of_another_version():
    assert shown_settings({}, (3, 32, 32)) == {}
    assert shown_settings({'from_tomorrow': [1, '/home/me/a'], 'off': False}, (3, 32, 32)) == {
        'from_tomorrow': '[1, a]'}
