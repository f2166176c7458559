import json
import os

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.data import resolve_model_data_config

from iebn_zoo.errors import IEBNZooError, UsageError
from iebn_zoo.hub.export import export
from iebn_zoo.hub.export_command import main
from iebn_zoo.training.state import BEST, LAST, load_checkpoint, save_checkpoint
from tests.hub.runs import make_run

FILES = {'README.md', 'config.json', 'curves.png', 'golden.safetensors', 'model.safetensors', 'summary.csv'}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp('run') / 'run')


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory):
    output = tmp_path_factory.mktemp('export') / 'model'
    assert main([str(run), '--output', str(output)]) == 0  # reloads in a fresh process
    return output


@pytest.fixture
def in_process(monkeypatch):
    # the fresh process costs an import of torch; where the reload is not the subject, check in this one
    from iebn_zoo.hub import export as module
    from iebn_zoo.hub.check import check_directory
    monkeypatch.setattr(module, '_reload', lambda made: check_directory(made).difference)


def logits_of(state, run):
    checkpoint = load_checkpoint(run)
    model = timm.create_model(checkpoint['arch'], **checkpoint['model_args']).eval()
    model.load_state_dict(checkpoint[state])
    return model


def test_the_directory_is_a_hub_repository(exported, run):
    assert set(os.listdir(exported)) == FILES
    golden = load_file(exported / 'golden.safetensors')
    assert golden['input'].shape == (2, 3, 32, 32)
    model = timm.create_model(f'local-dir:{exported}', pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(model(golden['input']), golden['logits'])
        assert torch.equal(logits_of('state_dict', run / LAST)(golden['input']), golden['logits'])
    assert (exported / 'summary.csv').read_bytes() == (run / 'summary.csv').read_bytes()


def test_config_says_how_it_was_trained(exported):
    config = json.loads((exported / 'config.json').read_text())
    assert config['architecture'] == 'iebn_resnet20_cifar' and config['label_names'] == ['ant', 'bee', 'cat', 'dog']
    assert config['num_classes'] == config['model_args']['num_classes'] == config['pretrained_cfg']['num_classes'] == 4
    assert 'drop_rate' not in config['model_args'] and config['model_args']['layers'] == [1, 1, 1]
    data = resolve_model_data_config(timm.create_model(f'local-dir:{exported}'))
    assert [*data['mean']] == [0.5, 0.4, 0.3] and [*data['std']] == [0.2, 0.3, 0.25]
    assert tuple(data['input_size']) == (3, 32, 32)


@pytest.mark.parametrize('kwargs', [dict(num_classes=0), dict(num_classes=9), dict(features_only=True)])
def test_loads_in_every_way_of_timm(exported, kwargs):
    model = timm.create_model(f'local-dir:{exported}', pretrained=True, **kwargs).eval()
    state = load_file(exported / 'model.safetensors')
    own = model.state_dict()
    assert torch.equal(own['layer2.0.bn2.gate_weight'], state['layer2.0.bn2.gate_weight'])
    out = model(torch.randn(1, 3, 32, 32))
    assert len(out) == 4 if 'features_only' in kwargs else out.shape[1] == (kwargs['num_classes'] or 64)


def test_ema_and_best(run, tmp_path, in_process):
    for kwargs, name, state in ((dict(ema=True), LAST, 'state_dict_ema'), (dict(best=True), BEST, 'state_dict')):
        output, difference = export(run, tmp_path / name, **kwargs)
        assert difference == 0
        golden = load_file(output / 'golden.safetensors')
        with torch.no_grad():
            assert torch.equal(logits_of(state, run / name)(golden['input']), golden['logits'])


def test_other_architectures(tmp_path, in_process):
    for arch, chans in (('bn_resnet20_cifar', 1), ('test_resnet', 3)):
        run = make_run(tmp_path / arch, arch, ema=False, in_chans=chans)
        output, _ = export(run, tmp_path / f'{arch}_out')
        card = (output / 'README.md').read_text()
        assert 'IEBN' not in card.split('## Model Details')[0].replace('without IEBN', '') and '- iebn' not in card


def damaged(run, tmp_path, change):
    copy = tmp_path / 'damaged'
    copy.mkdir()
    checkpoint = load_checkpoint(run / LAST)
    change(checkpoint)
    save_checkpoint(copy / LAST, checkpoint)
    return copy


def _nan(checkpoint):
    checkpoint['state_dict']['layer1.0.bn1.gate_bias'][2] = float('nan')


@pytest.mark.parametrize('change, kwargs, named', [
    (_nan, {}, 'layer1.0.bn1.gate_bias has NaN'),
    (lambda c: c.update(label_names=['a', 'b']), {}, '2 label names for 4 classes'),
    (lambda c: c.pop('state_dict_ema'), dict(ema=True), 'no EMA weights'),
    (lambda c: c.update(epoch=-1), {}, 'before the first epoch'),
    (lambda c: c['state_dict'].pop('fc.bias'), {}, "lacks 'fc.bias'"),
    (lambda c: c.update(arch='iebn_resnet9000'), {}, 'cannot create iebn_resnet9000'),
])
def test_what_cannot_be_exported_leaves_nothing(run, tmp_path, change, kwargs, named):
    with pytest.raises(IEBNZooError) as e:
        export(damaged(run, tmp_path, change), tmp_path / 'out' / 'model', **kwargs)
    assert named in str(e.value) and len(str(e.value).splitlines()) <= 3
    assert not (tmp_path / 'out').exists() or os.listdir(tmp_path / 'out') == []


def test_an_existing_directory_survives_a_failed_export(run, exported, tmp_path, in_process):
    with pytest.raises(UsageError, match='--overwrite'):
        export(run, exported)
    (tmp_path / 'mine').mkdir()
    with pytest.raises(UsageError):  # not an export: never removed
        export(run, tmp_path / 'mine', overwrite=True)
    before = {name: (exported / name).read_bytes() for name in FILES}
    with pytest.raises(IEBNZooError):
        export(damaged(run, tmp_path, _nan), exported, overwrite=True)
    assert {name: (exported / name).read_bytes() for name in FILES} == before
    assert os.listdir(exported.parent) == [exported.name]
    export(run, exported, overwrite=True, best=True)
    assert (exported / 'model.safetensors').read_bytes() != before['model.safetensors']
    export(run, exported, overwrite=True)
    assert (exported / 'model.safetensors').read_bytes() == before['model.safetensors']


def test_a_reload_that_differs_is_an_error(run, tmp_path, monkeypatch):
    # golden logits of other weights: what a broken writer would leave; the real fresh process must notice
    from iebn_zoo.hub import export as module
    write = module._write

    def wrong(made, *args):
        write(made, *args)
        golden = load_file(made / 'golden.safetensors')
        module.safetensors.torch.save_file({**golden, 'logits': golden['logits'] + 1}, made / 'golden.safetensors')

    monkeypatch.setattr(module, '_write', wrong)
    with pytest.raises(IEBNZooError, match='does not load back.*differ'):
        export(run, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
