import json
import os
import shutil
from typing import Any, Dict, List, Tuple

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.data.config import resolve_model_data_config

from iebn_zoo.commands.hub.export import main
from iebn_zoo.hub.package.export import export
from iebn_zoo.training.run.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.weights.settings import cfg_of
from tests.support.hub.exported import edit_golden
from tests.support.hub.runs import NASTY, make_run

pytestmark = pytest.mark.usefixtures('warm_python')

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
    from iebn_zoo.hub.package import export as module
    from iebn_zoo.hub.package.check import check_directory
    monkeypatch.setattr(module, 'reload_fresh', lambda made: check_directory(made).difference)


def logits_of(state, run):
    checkpoint = load_checkpoint(run)
    model = timm.create_model(checkpoint['arch'], **checkpoint['model_args']).eval()
    model.load_state_dict(checkpoint[state])
    return model


def test_the_directory_is_a_hub_repository(exported, run):
    assert set(os.listdir(exported)) == FILES
    assert len({(exported / name).stat().st_mode for name in FILES}) == 1  # weights that others may read, too
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
    assert config['num_classes'] == config['pretrained_cfg']['num_classes'] == 4
    assert 'num_classes' not in config['model_args'], 'transformers passes it itself'
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


def test_a_checkpoint_from_the_middle_of_an_epoch_is_no_export(run, tmp_path):
    checkpoint = dict(load_checkpoint(run / LAST), position=dict(epoch=3, step=40))
    save_checkpoint(run / 'recovery.pth.tar', checkpoint)
    try:
        with pytest.raises(UsageError, match=r'middle of epoch 3 \(step 40\)'):
            export(run / 'recovery.pth.tar', tmp_path / 'out')
    finally:
        (run / 'recovery.pth.tar').unlink()
    assert not (tmp_path / 'out').exists()


def test_ema_and_best(run, tmp_path, in_process):
    # the best epoch was ranked by its EMA weights
    cases: List[Tuple[Dict[str, Any], str, str]] = [
        ({}, LAST, 'state_dict'), (dict(ema=True), LAST, 'state_dict_ema'),
        (dict(best=True), BEST, 'state_dict_ema'), (dict(best=True, ema=False), BEST, 'state_dict')]
    for i, (kwargs, name, state) in enumerate(cases):
        output, difference = export(run, tmp_path / str(i), **kwargs)
        assert difference == 0
        golden = load_file(output / 'golden.safetensors')
        with torch.no_grad():
            assert torch.equal(logits_of(state, run / name)(golden['input']), golden['logits'])


def test_other_architectures(tmp_path, in_process):
    for arch, chans in (('bn_resnet20_cifar', 1), ('test_resnet', 3)):
        run = make_run(tmp_path / arch, arch, ema=False, in_chans=chans)
        output, _ = export(run, tmp_path / f'{arch}_out')
        card = (output / 'README.md').read_text()
        assert 'IEBN' not in card.split('## Model Details')[0].replace('without IEBN', '') and '- iebn\n' not in card
        assert ('Loading needs the package' in card) == (arch != 'test_resnet')
        opened = "open_image('image.png', '{}')" if arch != 'test_resnet' else "convert('{}')"
        assert opened.format('L' if chans == 1 else 'RGB') in card
        cfg = json.loads((output / 'config.json').read_text())['pretrained_cfg']
        assert cfg['input_size'] == [chans, 32, 32] and len(cfg['mean']) == chans
        # nothing that timm's own weights say of themselves
        assert not {'tag', 'test_input_size', 'min_input_size', 'test_crop_pct', 'origin_url', 'hf_hub_id'} & set(cfg)
        model = timm.create_model(f'local-dir:{output}', pretrained=True)
        assert model(torch.randn(2, chans, 32, 32)).shape == (2, 4)


def test_a_network_whose_weights_depend_on_the_image_size(tmp_path, in_process):
    run = make_run(tmp_path / 'run', 'test_vit', ema=False, size=160)
    output, difference = export(run, tmp_path / 'out')
    assert difference == 0
    state = timm.create_model(f'local-dir:{output}', pretrained=True).state_dict()
    assert torch.equal(state['pos_embed'], load_checkpoint(run / LAST)['state_dict']['pos_embed'])


def damaged(run, tmp_path, change):
    copy = tmp_path / 'damaged'
    copy.mkdir()
    checkpoint = load_checkpoint(run / LAST)
    change(checkpoint)
    save_checkpoint(copy / LAST, checkpoint)
    shutil.copy(run / 'summary.csv', copy)
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
    (lambda c: c.update(label_names=['a', 'b', 'c', 4]), {}, "has label_names ['a', 'b', 'c', 4]"),
    (lambda c: c.pop('data_config'), {}, 'does not say the input_size'),
    (lambda c: c.update(epoch=3), {}, 'no row for epoch 3'),
    (lambda c: c['metrics'].update(eval_top1=99.), {}, 'the checkpoint measured 99.0000'),
    (lambda c: None, dict(best=True), 'model_best.pth.tar'),
    (lambda c: None, dict(license='MIT license'), '--license'),
    (lambda c: None, dict(repo_id="it's"), 'OWNER/NAME'),
    (lambda c: None, dict(dataset_id='a b: c'), '--dataset-id'),
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


def test_nothing_that_no_export_made_is_replaced(run, exported, tmp_path, in_process):
    clone = shutil.copytree(exported, tmp_path / 'clone')
    (clone / '.git').mkdir()
    with pytest.raises(UsageError, match='.git, which no export made'):
        export(run, clone, overwrite=True)
    assert (clone / '.git').is_dir()


def test_an_interrupt_while_replacing_keeps_the_old_directory(run, exported, tmp_path, in_process, monkeypatch):
    old = shutil.copytree(exported, tmp_path / 'out')
    before = {name: (old / name).read_bytes() for name in FILES}
    rename = os.rename

    def interrupted(source, target):
        if os.path.basename(source) == 'made':
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, 'rename', interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(run, old, overwrite=True, best=True)
    assert {name: (old / name).read_bytes() for name in FILES} == before and os.listdir(tmp_path) == ['out']


def test_a_truncated_checkpoint_and_a_file_with_best(run, tmp_path):
    (tmp_path / LAST).write_bytes((run / LAST).read_bytes()[:5000])
    with pytest.raises(IEBNZooError, match='truncated'):
        export(tmp_path, tmp_path / 'out')
    with pytest.raises(UsageError, match='is a file'):
        export(run / LAST, tmp_path / 'out', best=True)
    assert os.listdir(tmp_path) == [LAST]


def test_no_place_of_this_machine_is_in_any_file(run, exported):
    for name in FILES - {'curves.png'}:
        content = (exported / name).read_bytes()
        for place in ('somebody', str(run), str(exported), os.path.expanduser('~')):
            assert place.encode() not in content, (name, place)


def test_labels_from_data_arrive_as_they_are(tmp_path, in_process):
    run = make_run(tmp_path / 'run', labels=NASTY, ema=False)
    output, _ = export(run, tmp_path / 'out')
    model = timm.create_model(f'local-dir:{output}', pretrained=True)
    assert list(cfg_of(model)['label_names']) == NASTY


def test_a_reload_that_differs_is_an_error(run, tmp_path, monkeypatch):
    # golden logits of other weights: what a broken writer would leave; the real fresh process must notice
    from iebn_zoo.hub.package import export as module
    write = module.write_golden

    def wrong(made, *args):
        write(made, *args)
        edit_golden(made, lambda tensors, metadata: tensors['logits'].add_(1))

    monkeypatch.setattr(module, 'write_golden', wrong)
    with pytest.raises(IEBNZooError, match='does not load back.*differ'):
        export(run, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
