"""The license of an export follows the weights that its run started from."""
import json

import pytest
import timm
import torch

from iebn_zoo.commands.hub.export import main as export_command
from iebn_zoo.commands.train import main as train
from iebn_zoo.hub.card.card import UNKNOWN
from iebn_zoo.hub.card.run_facts import base_model_of
from iebn_zoo.hub.package.check import check_directory
from iebn_zoo.hub.package.export import export
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint, save_checkpoint
from iebn_zoo.training.run.origin import find_start, license_of, start_of
from iebn_zoo.weights.settings import cfg_of
from tests.support.hub.converting import convert
from tests.support.hub.exported import card_data
from tests.support.hub.runs import make_run
from tests.support.training.datasets import flags

NC = 'resnext101_32x8d.fb_wsl_ig1b_ft_in1k'  # of timm's, cc-by-nc-4.0


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    for module in ('package.export', 'convert.directory'):
        monkeypatch.setattr(f'iebn_zoo.hub.{module}.reload_fresh', lambda made: check_directory(made).difference)


def licenses(directory):
    config = json.loads((directory / 'config.json').read_text())
    return card_data((directory / 'README.md').read_text()).license, config['pretrained_cfg'].get('license')


def exported(run, output, **kwargs):
    return licenses(export(run, output, **kwargs)[0])


@pytest.mark.parametrize('args, expected', [
    (dict(), 'apache-2.0'),
    (dict(model=NC, pretrained=True), 'cc-by-nc-4.0'),
    (dict(model=f'iebn_{NC.replace(".", ".bn_")}', pretrained=True), 'cc-by-nc-4.0'),
    (dict(model='resnet50.tv_in1k', pretrained=True), 'bsd-3-clause'),
    (dict(model=NC), 'apache-2.0'),  # named, but from random weights
    (dict(model='resnet18.no_such_tag', pretrained=True), None),
    (dict(model='hf-hub:me/never-seen', pretrained=True), None),
    (dict(model='local-dir:/no/such/place', pretrained=True), None),
    (dict(initial_checkpoint='/no/such/file.pth'), None),
    (dict(model=NC, pretrained=True, initial_checkpoint='/no/such/file.pth'), None),
])
def test_by_the_flags_of_a_run_that_recorded_nothing(tmp_path, args, expected):
    run = make_run(tmp_path / 'run', ema=False, **args)
    assert exported(run, tmp_path / 'out') == (expected or UNKNOWN, expected)
    assert exported(run, tmp_path / 'asked', license='mit') == ('mit', 'mit')


def test_a_run_without_its_flags_is_not_taken_for_one_from_scratch(tmp_path, capsys):
    run = make_run(tmp_path / 'run', ema=False)
    (run / 'args.yaml').unlink()
    assert export_command([str(run), '--output', str(tmp_path / 'out')]) == 0
    assert licenses(tmp_path / 'out') == (UNKNOWN, None)
    assert 'license  unknown' in capsys.readouterr().out


def trained(image_folder, run, *more):
    train(flags(image_folder, run, '--epochs', '1', '--no-aug', *more))
    return load_checkpoint(run / LAST)


def test_a_run_records_its_start_and_keeps_it_when_resumed(image_folder, tmp_path):
    """From an export under cc-by-nc-4.0, by directory and by file, then resumed, then as the start of another run."""
    start = make_run(tmp_path / 'start', ema=False, labels=['blue', 'green', 'red'])
    base, _ = export(start, tmp_path / 'base', license='cc-by-nc-4.0')
    assert cfg_of(timm.create_model(f'local-dir:{base}', pretrained=True))['license'] == 'cc-by-nc-4.0'
    run = tmp_path / 'run'
    first = trained(image_folder, run, '--model', f'local-dir:{base}', '--pretrained')
    assert first['start'] == dict(scratch=False, license='cc-by-nc-4.0')
    again = trained(image_folder, run, '--model', f'local-dir:{base}', '--pretrained', '--epochs', '2', '--resume',
                    '--allow-recipe-change')
    assert again['epoch'] == 1 and again['start'] == first['start']
    (base / 'config.json').rename(tmp_path / 'gone.json')  # where it started from may be gone
    assert exported(run, tmp_path / 'out') == ('cc-by-nc-4.0', 'cc-by-nc-4.0')

    second = trained(image_folder, tmp_path / 'second', '--initial-checkpoint', str(run / LAST), '--model-kwargs',
                     'layers=[1,1,1]')
    assert second['start'] == dict(scratch=False, license='cc-by-nc-4.0')
    # a recorded start is not overruled by what somebody writes into the flags
    assert license_of(start_of(second, dict(pretrained=False))) == 'cc-by-nc-4.0'


def test_a_chain_of_own_runs_is_from_scratch(image_folder, tmp_path):
    first = trained(image_folder, tmp_path / 'a')
    assert first['start'] == dict(scratch=True, license=None)
    second = trained(image_folder, tmp_path / 'b', '--initial-checkpoint', str(tmp_path / 'a' / LAST))
    assert second['start'] == dict(scratch=True, license=None)
    assert exported(tmp_path / 'b', tmp_path / 'out') == ('apache-2.0', 'apache-2.0')


def test_the_weights_of_an_export_bring_its_license(tmp_path):
    base, _ = export(make_run(tmp_path / 'start', ema=False), tmp_path / 'base', license='cc-by-nc-4.0')
    for name in (dict(initial_checkpoint=str(base / 'model.safetensors')),
                 dict(model=f'local-dir:{base}', pretrained=True)):
        assert find_start(name) == dict(scratch=False, license='cc-by-nc-4.0')
    unknown, _ = export(make_run(tmp_path / 'u', ema=False, initial_checkpoint='x'), tmp_path / 'unknown')
    assert find_start(dict(model=f'local-dir:{unknown}', pretrained=True)) == dict(scratch=False, license=None)


@pytest.mark.parametrize('value', [7, ['mit'], 'MIT license', 'mit\nlicense: x', '', 'unknown', None, '../x'])
def test_what_is_no_license_is_not_known(tmp_path, value):
    (tmp_path / 'config.json').write_text(json.dumps({'pretrained_cfg': {'license': value}}))
    assert find_start(dict(initial_checkpoint=str(tmp_path / 'model.safetensors')))['license'] is None
    assert start_of(dict(start=dict(scratch='yes', license=value)), {}) == dict(scratch=False, license=None)


@pytest.mark.parametrize('text', ['', '[', '[]', '{"pretrained_cfg": 3}', '[' * 100_000])
def test_a_damaged_file_beside_the_weights_says_nothing(tmp_path, text):
    for name in ('config.json', 'args.yaml'):
        (tmp_path / name).write_text(text)
    assert find_start(dict(initial_checkpoint=str(tmp_path / 'w.pth'))) == dict(scratch=False, license=None)


def test_a_file_does_not_say_which_file_is_read(tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps({'pretrained_cfg': {'license': 'mit'}}))
    (tmp_path / 'other').mkdir()
    for flags_ in (dict(initial_checkpoint=str(tmp_path / 'w.pth')),
                   dict(model=f'local-dir:{tmp_path}', pretrained=True),
                   dict(model=f'Local-Dir:{tmp_path}', pretrained=True)):
        assert find_start(flags_)['license'] == 'mit'  # the user's own flags do
        assert start_of({}, flags_) == dict(scratch=False, license=None)
        begin = dict(args={'initial_checkpoint': None, **flags_})
        assert find_start(dict(initial_checkpoint=str(tmp_path / 'other' / 'w.pth')), begin)['license'] is None


def test_runs_that_start_from_each_other_end(tmp_path):
    for name, other in (('a', 'b'), ('b', 'a')):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'args.yaml').write_text(f'initial_checkpoint: {tmp_path / other / LAST}\n')
    assert find_start(dict(initial_checkpoint=str(tmp_path / 'a' / LAST))) == dict(scratch=False, license=None)


def test_a_conversion_of_a_run_keeps_its_license(tmp_path, capsys):
    run = make_run(tmp_path / 'run', 'bn_resnet20_cifar', ema=False, model=NC, pretrained=True)
    assert convert(capsys, '--checkpoint', run / LAST, '--output', tmp_path / 'out')[0] == 0
    assert licenses(tmp_path / 'out') == ('cc-by-nc-4.0', 'cc-by-nc-4.0')
    scratch = make_run(tmp_path / 'scratch', 'bn_resnet20_cifar', ema=False)
    assert convert(capsys, '--checkpoint', scratch / LAST, '--output', tmp_path / 'own')[0] == 0
    assert licenses(tmp_path / 'own') == ('apache-2.0', 'apache-2.0')
    assert 'Start of the gates' not in (tmp_path / 'own' / 'README.md').read_text()  # BatchNorm trained the weights
    recorded = make_run(tmp_path / 'recorded', 'bn_resnet20_cifar', ema=False)
    save_checkpoint(recorded / LAST, dict(load_checkpoint(recorded / LAST), start=dict(scratch=False, license='mit')))
    assert convert(capsys, '--checkpoint', recorded / LAST, '--output', tmp_path / 'as_recorded')[0] == 0
    assert licenses(tmp_path / 'as_recorded') == ('mit', 'mit')
    torch.save(load_checkpoint(scratch / LAST)['state_dict'], tmp_path / 'alone.pth')
    assert convert(capsys, '--model', 'bn_resnet20_cifar', '--model-kwargs', 'layers=[1,1,1]', '--checkpoint',
                   tmp_path / 'alone.pth', '--output', tmp_path / 'unknown')[0] == 0
    assert licenses(tmp_path / 'unknown') == (UNKNOWN, None)


def test_an_export_of_a_checkpoint_with_a_recorded_start(tmp_path):
    run = make_run(tmp_path / 'run', ema=False)
    save_checkpoint(run / LAST, dict(load_checkpoint(run / LAST), start=dict(scratch=False, license='cc-by-nc-4.0')))
    assert exported(run, tmp_path / 'out') == ('cc-by-nc-4.0', 'cc-by-nc-4.0')


def test_a_strangers_weights_have_nothing_of_the_run_beside_them(tmp_path, capsys):
    run = make_run(tmp_path / 'run', ema=False, dataset='torch/cifar100')
    model = timm.create_model('bn_resnet20_cifar')
    torch.save(model.state_dict(), run / 'stranger.pth')
    code, _, err = convert(capsys, '--checkpoint', run / 'stranger.pth', '--model', 'bn_resnet20_cifar',
                           '--output', tmp_path / 'out')
    assert code == 0, err
    assert licenses(tmp_path / 'out') == (UNKNOWN, None)
    assert 'CIFAR-100' not in (tmp_path / 'out' / 'README.md').read_text()


def test_no_spelling_of_a_prefix_puts_a_place_into_a_card(tmp_path, capsys):
    base, _ = export(make_run(tmp_path / 'run', 'bn_resnet20_cifar', ema=False), tmp_path / 'base')
    code, _, err = convert(capsys, '--model', f'Local-Dir:{base}', '--output', tmp_path / 'out')
    assert code == 0, err
    for name in ('README.md', 'conversion.json', 'config.json'):
        assert str(tmp_path) not in (tmp_path / 'out' / name).read_text()
    assert base_model_of(dict(model='HF_Hub:me/x@main', pretrained=True)) == 'me/x'
