"""Every shipped recipe: flags that exist, and the numbers of its source."""
import argparse
import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
import yaml
from torch import nn

import iebn_zoo  # noqa: F401
from iebn_zoo.cli import COMMANDS
from iebn_zoo.models.cifar_blocks import WideBasicBlock
from iebn_zoo.studies.compare import arguments as compare
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.loss import make_loss
from iebn_zoo.training.config.optimizer import make_optimizer
from iebn_zoo.training.config.recipe import parse_with_recipe
from iebn_zoo.util.resources import resource
from tests.support.paths import ROOT

RECIPES = sorted(resource('recipes', 'digits.yaml').parent.glob('*.yaml'))
CIFAR = dict(batch_size=128, opt='momentum', lr=0.1, momentum=0.9, weight_decay_all=True, sched='multistep')
# (epochs, 0-based epochs before which the source multiplies the rate, factor, weight decay)
SOURCES = {
    'cifar_resnet164': (164, (81, 122), 0.1, 1e-4),
    'cifar_preresnet164': (164, (81, 122), 0.1, 1e-4),
    'cifar_wrn52_4': (200, (80, 120, 160), 0.2, 5e-4),
    'cifar_resnext101_8x32d': (300, (150, 225), 0.1, 5e-4),
    'cifar_64k': (182, (91, 137), 0.1, 1e-4),
    'imagenet_resnet50': (90, (30, 60), 0.1, 1e-4),
}


def parsed(name, *flags) -> argparse.Namespace:
    return parse_with_recipe(train_parser(), ['--config', name, *flags])


@pytest.mark.parametrize('path', sorted((ROOT / 'hub_cards').glob('*/args.yaml')), ids=lambda path: path.parent.name)
def test_the_record_of_a_published_run_is_a_recipe(path):
    args = parsed(str(path), '--output', 'new')
    assert (args.output, args.lr) == ('new', yaml.safe_load(path.read_text())['lr'])


def header(path: Path) -> str:
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith('#'):
            break
        lines.append(line[1:].strip())
    return '\n'.join(lines)


@pytest.mark.parametrize('path', RECIPES, ids=lambda p: p.stem)
def test_a_recipe_parses_names_a_model_and_says_where_it_comes_from(path):
    args = parsed(path.stem)
    assert timm.is_model(args.model.split('.')[0])
    assert not args.pretrained or timm.is_model_pretrained(args.model)
    text = header(path)
    assert re.search(r'arXiv|github\.com|[Ss]etting of iebn-zoo', text)
    for key, value in yaml.safe_load(path.read_text()).items():
        assert getattr(args, key) == (float(value) if isinstance(getattr(args, key), float) else value), key


@pytest.mark.parametrize('path', RECIPES, ids=lambda p: p.stem)
def test_the_command_in_the_header_is_one(path):
    text = header(path).replace('\\\n', ' ')
    commands = re.findall(r'^(?:torchrun .* -m )?iebn[-_]zoo (.*)$', text, re.MULTILINE)
    if path.stem == 'digits':  # what iebn-zoo demo trains by
        return
    assert commands
    for command in commands:
        name, *argv = shlex.split(command)
        assert name in COMMANDS
        args = compare.resolve(*compare.parse(argv)) if name == 'compare' else parse_with_recipe(train_parser(), argv)
        assert args.config == path.stem and args.data_dir


@pytest.mark.parametrize('name', SOURCES)
def test_the_rate_of_every_epoch_is_the_sources(name):
    epochs, milestones, factor, decay = SOURCES[name]
    args = parsed(name)
    assert (args.epochs, args.weight_decay, args.momentum, args.lr) == (epochs, decay, 0.9, 0.1)
    if name.startswith('cifar'):
        assert {k: getattr(args, k) for k in CIFAR} == CIFAR and not args.sched_on_updates
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    optimizer, scheduler = make_optimizer(args, model, updates_per_epoch=390)
    assert {(g['weight_decay'], g['nesterov']) for g in optimizer.param_groups} == {(decay, False)}
    assert sum(len(g['params']) for g in optimizer.param_groups) == 4
    rate = 0.1
    for epoch in range(epochs):  # as the session steps it
        rate *= factor if epoch in milestones else 1
        assert optimizer.param_groups[0]['lr'] == pytest.approx(rate), epoch
        scheduler.step(epoch + 1)


@pytest.mark.parametrize('name', [name for name in SOURCES if name.startswith('cifar')])
def test_recipes_that_reproduce_a_publication_start_as_it_does(name):
    args = parsed(name)
    assert args.model_kwargs['start'] == 'paper'
    with torch.device('meta'):
        gated, plain = (timm.create_model(n, **args.model_kwargs)
                        for n in (args.model, args.model.replace('iebn_', 'bn_')))
    assert gated.start == 'paper' and all(p.shape for p in plain.parameters())


def test_the_modern_recipe_is_procedure_a2():
    args = parsed('imagenet_resnet50_modern')
    table = dict(epochs=300, opt='lamb', lr=5e-3, weight_decay=0.02, sched='cosine', warmup_epochs=5, smoothing=0.,
                 bce_loss=True, aug_repeats=3, aa='rand-m7-mstd0.5-inc1', mixup=0.1, cutmix=1.0, drop=None,
                 drop_path=0.05, reprob=0., crop_pct=0.95, hflip=0.5, model_ema=False, clip_grad=None, amp=True)
    assert {k: getattr(args, k) for k in table} == table and args.batch_size * 8 == 2048
    loss, mixup = make_loss(args, 1000)
    assert type(loss).__name__ == 'BinaryCrossEntropy' and mixup is not None
    assert not parsed('imagenet_resnet50_modern', '--no-amp', '--no-bce-loss').amp


def test_the_classic_recipe_starts_every_norm_at_scale_one():
    args = parsed('imagenet_resnet50')
    model = timm.create_model(args.model, **args.model_kwargs)
    scales = [p for name, p in model.named_parameters() if name.endswith('.weight') and p.ndim == 1]
    assert len(scales) == 53 and all((scale == 1).all() for scale in scales)


def test_64k_iterations_are_the_arithmetic_of_the_header():
    per_epoch = 45_000 // 128
    assert per_epoch == 351
    text = header(resource('recipes', 'cifar_64k.yaml'))
    for epochs, iterations in ((182, 64_000), (91, 32_000), (137, 48_000)):
        assert abs(epochs * per_epoch - iterations) <= per_epoch / 2
        assert f'{epochs * per_epoch:,}' in text
    assert parsed('cifar_64k').holdout == 0.1


def test_the_wide_network_drops_out_between_its_convolutions():
    args = parsed('cifar_wrn52_4')
    with torch.device('meta'):
        model = timm.create_model(args.model, **args.model_kwargs)
    rates = {m.dropout.p for m in model.modules() if isinstance(m, WideBasicBlock)}
    assert rates == {0.3}


def test_the_fine_tuning_recipes_start_from_weights_and_one_freezes():
    assert parsed('finetune').pretrained and not parsed('finetune').freeze_stats
    assert parsed('finetune_frozen').pretrained and parsed('finetune_frozen').freeze_stats


def test_a_flag_overrides_a_mapping_of_the_recipe():
    assert parsed('cifar_wrn52_4', '--model-kwargs', 'gate_downsample=True').model_kwargs == {'gate_downsample': True}
