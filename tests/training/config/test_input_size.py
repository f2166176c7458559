"""``--input-size`` beside ``--img-size``, ``--in-chans`` and a recipe."""
import argparse

import pytest
import timm
import torch

import iebn_zoo  # noqa: F401
from iebn_zoo.commands.hub.convert import main as convert
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.config.input_size import settle_input_size
from iebn_zoo.training.config.recipe import parse_with_recipe
from iebn_zoo.util.errors import UsageError
from iebn_zoo.weights.open import open_network


def settled(*words):
    args = train_parser().parse_args(words)
    settle_input_size(args)
    return args.input_size, args.img_size, args.in_chans


def test_it_says_the_channels_and_contradicts_nothing():
    assert settled() == (None, None, None)
    assert settled('--input-size', '1', '24', '40') == ([1, 24, 40], None, 1)
    assert settled('--input-size', '3', '32', '32', '--img-size', '32', '--in-chans', '3') == ([3, 32, 32], 32, 3)


@pytest.mark.parametrize('words, said', [
    (('3', '24', '40', '--img-size', '24'), '3 24 40, and --img-size is 24'),
    (('3', '24', '40', '--in-chans', '1'), '3 24 40, and --in-chans is 1'),
    (('2', '24', '40'), 'expected 3 or 1 channels'),
    (('24', '40', '3'), 'expected 3 or 1 channels, then height'),
    (('3', '0', '40'), 'from 1 to 4096'),
    (('3', '24', '4097'), 'from 1 to 4096'),
])
def test_what_contradicts_or_is_impossible_is_an_error(words, said):
    with pytest.raises(UsageError, match=said):
        settled('--input-size', *words)


@pytest.mark.parametrize('recipe, words, expected', [
    ('img_size: 32\nin_chans: 1', '--input-size 3 24 40', ([3, 24, 40], None, 3)),
    ('input_size: [1, 24, 40]', '--img-size 32', (None, 32, 1)),
    ('input_size: [1, 24, 40]', '', ([1, 24, 40], None, 1)),
    ('input_size: [1, 24, 40]', '--input-size 3 8 8', ([3, 8, 8], None, 3)),
])
def test_a_flag_overrides_a_recipe(tmp_path, recipe, words, expected):
    (tmp_path / 'r.yaml').write_text(recipe)
    args = parse_with_recipe(train_parser(), ['--config', str(tmp_path / 'r.yaml'), *words.split()])
    settle_input_size(args)
    assert (args.input_size, args.img_size, args.in_chans) == expected


def opened(path, **flags):
    return open_network('resnet10t', path, flags=flags).data_config['input_size']


def test_the_size_in_a_checkpoint_of_timm_gives_way_to_a_flag(tmp_path):
    model = timm.create_model('resnet10t', num_classes=3)
    options = argparse.Namespace(input_size=[3, 64, 96], img_size=None)
    torch.save(dict(state_dict=model.state_dict(), arch='resnet10t', args=options), tmp_path / 'timm.pth.tar')
    path = tmp_path / 'timm.pth.tar'
    assert opened(path) == [3, 64, 96] and opened(path, img_size=32) == [3, 32, 32]
    assert opened(path, input_size=[3, 8, 16]) == [3, 8, 16]
    with pytest.raises(UsageError, match='(?s)input-size is 1 8 8, and the model takes 3 channels'):
        opened(path, input_size=[1, 8, 8])
    with pytest.raises(UsageError, match='--input-size is 3 8 8, and --in-chans is 1'):
        convert(['--model', 'resnet10t', '--checkpoint', str(path), '--output', str(tmp_path / 'out'),
                 '--input-size', '3', '8', '8', '--in-chans', '1'])
