"""Adding a run or a conversion to hub_cards, by the command."""
import json
import math

import pytest
import timm
import yaml

from iebn_zoo.hub.card.seeds import holds_run
from iebn_zoo.hub.package.check import check_directory
from iebn_zoo.hub.package.proof import prove
from iebn_zoo.hub.published.__main__ import main
from iebn_zoo.hub.published.folder import folders
from iebn_zoo.studies.compare.arms import Arm
from iebn_zoo.studies.compare.grid import Cell
from iebn_zoo.studies.compare.results import RUN_COLUMNS, run_row, write_rows
from iebn_zoo.training.run.checkpoint import BEST
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.hub.converting import convert
from tests.support.hub.exported import card_data
from tests.support.hub.runs import make_run

ARGS = dict(dataset='torch/cifar10', initial_checkpoint=None, mix_dataset='/home/somebody/other', workers=3)
RUNS = ('arm,model,model_kwargs,seed,complete,last,best\n'
        'bn,bn_resnet20_cifar,,0,1,50.0,51.0\nbn,bn_resnet20_cifar,,1,1,52.0,53.0\n'
        'iebn,iebn_resnet20_cifar,,7,1,52.33,61.0\niebn,iebn_resnet20_cifar,,8,1,53.33,62.0\n'
        'iebn,iebn_resnet20_cifar,,9,0,,\n')


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    for module in ('package.export', 'convert.directory'):
        monkeypatch.setattr(f'iebn_zoo.hub.{module}.reload_fresh', lambda made: check_directory(made).difference)


@pytest.fixture
def cards(tmp_path):
    (tmp_path / 'cards').mkdir()
    return tmp_path / 'cards'


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def text_of(folder):
    return ''.join(p.read_text() for p in folder.iterdir() if p.suffix in ('.json', '.yaml', '.md', '.csv'))


def test_a_run_with_its_weights(tmp_path, cards, capsys):
    run = make_run(tmp_path / 'run', ema=False, **ARGS)
    (tmp_path / 'runs.csv').write_text(RUNS)
    (run / 'timing.csv').write_text('epoch,seconds,images_per_second\n0,2,10\n')
    argv = [str(cards), '--add', str(run), '--tag', 'test', '--runs', str(tmp_path / 'runs.csv')]
    assert main(argv) == 0 and 'as it was' in capsys.readouterr().out
    assert names(cards) == ['README.md', 'iebn_resnet20_cifar.test']
    folder = cards / 'iebn_resnet20_cifar.test'
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # others may read golden.safetensors too
    assert not prove(folder).edited and timm.create_model(f'local-dir:{folder}', pretrained=True)
    assert 'somebody' not in text_of(folder) and str(tmp_path) not in text_of(folder)
    args = yaml.safe_load((folder / 'args.yaml').read_text())
    assert args['mix_dataset'] == 'OTHER_DATA' and not {'workers', 'output'} & set(args) and args['data_dir'] is None
    assert set(json.loads((folder / 'environment.json').read_text())) <= {
        'iebn_zoo', 'timm', 'torch', 'python', 'cpu', 'gpu', 'num_processes', 'commit'}
    card = (folder / 'README.md').read_text()
    assert '| iebn | `iebn_resnet20_cifar` |  | 2 | 52.83 ± 0.71 | 61.50 ± 0.71 |' in card
    assert f"`timm.create_model('{folder.name}', pretrained=True)` loads them without" in card
    assert '| bn | `bn_resnet20_cifar` |  | 2 | 51.00 ± 1.41 |' in card and 'n = 1' not in card
    assert '2.0 seconds per epoch' in card and 'torch/cifar10' not in card_data(card).datasets
    table = (cards / 'README.md').read_text()
    assert '| CIFAR-10 | 3 | IEBN | ' in table and '| in the package |' in table
    assert f"timm.create_model('{folder.name}', pretrained=True)" in table

    # a template that has changed: the card is written anew, and golden.safetensors is bound to it
    (folder / 'README.md').write_text(card.replace('## Limitations', '## Old words'))
    assert prove(folder).edited
    assert main([str(cards)]) == 0 and (folder / 'README.md').read_text() == card and not prove(folder).edited
    before = (folder / 'golden.safetensors').read_bytes()
    assert main([str(cards)]) == 0 and (folder / 'golden.safetensors').read_bytes() == before


def test_an_example_and_one_of_the_same_name(tmp_path, cards):
    run = make_run(tmp_path / 'run', 'bn_resnet20_cifar', pretrained=True, model='resnet18.a1_in1k')
    argv = [str(cards), '--add', str(run), '--tag', 'test', '--example', '--best']
    assert main(argv) == 0
    (folder,) = folders(cards)
    assert not folder.carried and 'golden.safetensors' not in names(folder.path)
    assert folder.run.ema and folder.run.epoch == 1  # the best epoch is of the EMA weights
    assert '| timm/resnet18.a1_in1k | not published: an example |' in (
        cards / 'README.md').read_text().replace('\\', '')
    before = text_of(folder.path)
    with pytest.raises(UsageError, match='exists.*\n.*--overwrite'):
        main(argv)
    assert text_of(folder.path) == before and len(names(cards)) == 2
    (folder.path / 'notes.txt').write_text('by hand')
    (folder.path / 'more').mkdir()
    (folder.path / 'more' / 'log.csv').write_text('a')
    assert main([*argv[:-1], '--overwrite']) == 0
    assert (folder.path / 'notes.txt').read_text() == 'by hand' and (folder.path / 'more' / 'log.csv').is_file()
    (folder,) = folders(cards)
    assert folder.run.epoch == 2 and len(names(cards)) == 2


def test_conversions(tmp_path, cards, capsys):
    run = make_run(tmp_path / 'run', 'bn_resnet20_cifar', ema=False, dataset='torch/cifar10', pretrained=True,
                   model='hf-hub:me/base')
    assert convert(capsys, '--checkpoint', run / BEST, '--output', tmp_path / 'out', '--license', 'mit')[0] == 0
    (tmp_path / 'out' / 'notes.json').write_text('mine')
    assert main([str(cards), '--add', str(tmp_path / 'out'), '--tag', 'test', '--example']) == 0
    assert names(cards / 'iebn_resnet20_cifar.test') == ['README.md', 'config.json', 'conversion.json', 'facts.json']
    (folder,) = folders(cards)
    data = card_data(folder.card())
    assert (data.license, data.base_model, data.base_model_relation) == ('mit', 'me/base', 'finetune')
    assert data.datasets == ['uoft-cs/cifar10'] and folder.dataset.name == 'CIFAR-10'
    assert '**Base model:** `me/base`, converted' in folder.card()


def test_runs_of_another_comparison_are_refused(tmp_path, cards):
    run = make_run(tmp_path / 'run', ema=False, **ARGS)
    for wrong in (RUNS.replace(',,7', ',,5'), RUNS.replace('52.33', '52.23'), RUNS.replace(',,7', ',start=paper,7')):
        (tmp_path / 'runs.csv').write_text(wrong)
        with pytest.raises(UsageError, match='has no run of iebn_resnet20_cifar with seed 7 and a last top-1 of 52.33'):
            main([str(cards), '--add', str(run), '--tag', 'test', '--runs', str(tmp_path / 'runs.csv')])
    assert names(cards) == []


@pytest.mark.parametrize('flags', [[], ['--best'], ['--no-use-ema']], ids=str)
def test_the_grid_of_a_run_with_an_ema_has_the_value_that_ranks_it(tmp_path, cards, flags):
    run = make_run(tmp_path / 'run', **ARGS)  # its last top-1: 52.33, and 40.67 of the EMA weights
    cell = Cell(Arm('iebn', 'iebn_resnet20_cifar', {}), 7, run)
    write_rows(tmp_path / 'runs.csv', [run_row(cell, 3, tmp_path)], RUN_COLUMNS)
    argv = [str(cards), '--add', str(run), '--tag', 'test', '--example', '--runs', str(tmp_path / 'runs.csv'), *flags]
    assert main(argv) == 0
    (tmp_path / 'runs.csv').write_text((tmp_path / 'runs.csv').read_text().replace('40.6667', '52.3333'))
    with pytest.raises(UsageError, match='a last top-1 of 40.67 of the EMA weights'):
        main([*argv, '--overwrite'])


def test_the_grid_of_a_run_whose_last_loss_is_not_finite(tmp_path):
    (tmp_path / 'runs.csv').write_text(RUNS.replace('52.33', 'nan'))
    found = [holds_run(tmp_path / 'runs.csv', 'iebn_resnet20_cifar', {}, 7, last) for last in (math.nan, 52.33)]
    assert found == [True, False]


@pytest.mark.parametrize('flags', [['--license', 'mit'], ['--best'], ['--use-ema'], ['--data-dir', 'images'],
                                   ['--runs', 'runs.csv']], ids=' '.join)
def test_flags_that_a_conversion_does_not_have(tmp_path, cards, flags):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'conversion.json').write_text('{}')
    with pytest.raises(UsageError, match=f'{flags[0]} is for the folder of a run'):
        main([str(cards), '--add', str(tmp_path / 'out'), '--tag', 'test', *flags])
    assert names(cards) == []


@pytest.mark.parametrize('argv, said', [
    (['--add', 'RUN'], '--tag'), (['--tag', 'x'], '--add'), (['--add', 'RUN', '--tag', '../x'], 'letters'),
    (['--add', 'EMPTY', '--tag', 'x'], 'no run directory'),
    (['--add', 'RUN', '--tag', 'x', '--runs', 'NONE'], '--runs'),
    (['--add', 'RUN', '--tag', 'x', '--license', 'MIT!'], '--license'), ([], 'holds no'),
])
def test_mistakes_leave_nothing(tmp_path, cards, argv, said):
    (tmp_path / 'empty').mkdir()
    places = {'EMPTY': tmp_path / 'empty', 'NONE': tmp_path / 'none.csv'}
    if 'RUN' in argv:
        places['RUN'] = make_run(tmp_path / 'run', ema=False)
    with pytest.raises(IEBNZooError, match=said) as e:
        main([str(cards), *(str(places.get(word, word)) for word in argv)])
    assert len(str(e.value).splitlines()) <= 3 and names(cards) == []
