"""What a card says of a run that was resumed with other flags."""
import json
import shutil

import pytest
import yaml

from iebn_zoo.commands.train import main as train
from iebn_zoo.hub.card.card import make_card
from iebn_zoo.hub.card.network_facts import network_facts
from iebn_zoo.hub.card.run_facts import read_run
from iebn_zoo.hub.convert.fold_images import holdout_of
from iebn_zoo.hub.published.add import add
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint, save_checkpoint
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.weights.open import open_network
from tests.support.training.datasets import flags

pytestmark = pytest.mark.usefixtures('warm_python')

FIRST = 'first.pth.tar'  # the last checkpoint before the change, as the best one may be
SMALL = ('--img-size', '16', '--no-aug', '--holdout', '0.25')
CHANGE = ('--epochs', '3', '--lr', '0.02', '--mixup', '0.2', '--allow-recipe-change', '--resume')


@pytest.fixture(scope='module')
def changed(image_folder, tmp_path_factory):
    """A run of three epochs: two by one recipe, one by another."""
    run = tmp_path_factory.mktemp('changed') / 'run'
    train(flags(image_folder / 'train', run, *SMALL))
    shutil.copy(run / LAST, run / FIRST)
    train(flags(image_folder / 'train', run, *SMALL, *CHANGE))
    return run


def card_of(run, name):
    checkpoint = load_checkpoint(run / name)
    facts = (checkpoint[key] for key in ('arch', 'model_args', 'data_config', 'label_names'))
    network = network_facts(open_network(checkpoint=run / name).model, *facts)
    return make_card(network, read_run(run, checkpoint, network.num_classes))


def test_the_flags_are_those_of_the_exported_weights(changed):
    card = card_of(changed, FIRST)
    assert '| `lr` | `0.05` |' in card and '--lr 0.05' in card and 'mixup' not in card
    assert 'resumed with other settings' not in card and 'not finished' not in card
    assert holdout_of(open_network(checkpoint=changed / FIRST), type('', (), dict(
        val_split=None, train_split=None))) == (0.25, 42)


def test_the_changes_are_told_with_their_epoch(changed, tmp_path):
    said = '- from epoch 2 on: `epochs` `2` -> `3`, `lr` `0.05` -> `0.02`, `mixup` off or default -> `0.2`, ' \
           '`mixup_prob` off or default -> `1.0`'
    card = card_of(changed, LAST)
    assert '| `lr` | `0.02` |' in card and '| `mixup` | `0.2` |' in card and said in card.splitlines()
    folder = add(tmp_path, changed, 'resumed', example=True)
    assert said in (folder / 'README.md').read_text().splitlines()
    assert str(changed.parent) not in json.dumps(json.loads((folder / 'facts.json').read_text()))


def test_a_second_change_leaves_the_first_one(changed, image_folder, tmp_path):
    run = shutil.copytree(changed, tmp_path / 'run')
    train(flags(image_folder / 'train', run, *SMALL, *CHANGE, '--epochs', '4'))
    assert [(r['epoch'], r['args']['lr']) for r in load_checkpoint(run / LAST)['earlier_recipes']] == [
        (2, 0.05), (3, 0.02)]
    assert '- from epoch 3 on: `epochs` `3` -> `4`' in card_of(run, LAST).splitlines()


def test_nothing_is_rewritten_where_nothing_is_trained(changed, image_folder, tmp_path):
    run = shutil.copytree(changed, tmp_path / 'run')
    before = {name: (run / name).read_bytes() for name in ('args.yaml', 'environment.json', LAST)}
    train(flags(image_folder / 'train', run, *SMALL, *CHANGE, '--lr', '7'))
    assert {name: (run / name).read_bytes() for name in before} == before
    assert yaml.safe_load(before['args.yaml'])['lr'] == 0.02


def test_a_published_card_says_that_a_run_was_not_finished(changed, tmp_path):
    run = shutil.copytree(changed, tmp_path / 'run')
    args = yaml.safe_load((run / 'args.yaml').read_text())
    (run / 'args.yaml').write_text(yaml.safe_dump({**args, 'epochs': 9}))  # asked for after the checkpoint was written
    folder = add(tmp_path, run, 'resumed', example=True)
    said = 'The run was not finished: 3 of 9 epochs.'
    assert said in card_of(run, LAST) and said in (folder / 'README.md').read_text()


def test_odd_recipes_are_no_crash(changed, tmp_path):
    run = shutil.copytree(changed, tmp_path / 'run')
    save_checkpoint(run / LAST, {**load_checkpoint(run / LAST), 'earlier_recipes': [dict(epoch=1)]})
    with pytest.raises(IEBNZooError, match='earlier_recipes'):
        card_of(run, LAST)
