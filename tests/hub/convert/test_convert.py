"""BN weights become an export directory of an IEBN network that computes the same, and back."""
import json
import os
import shutil
import subprocess
import sys
from argparse import Namespace

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from iebn_zoo.hub.card.text import escape
from iebn_zoo.hub.package.check import check_directory
from iebn_zoo.hub.published.add import _dataset_of, add
from iebn_zoo.hub.published.folder import read_folder
from iebn_zoo.hub.published.index import index
from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.training.run.checkpoint import LAST
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.resources import resource_directories
from iebn_zoo.weights.settings import cfg_of, set_cfg
from tests.support.hub.converting import CONVERTED, KWARGS, bn_network, convert, load, relative_difference, saved
from tests.support.hub.exported import card_data
from tests.support.hub.runs import make_run
from tests.support.models.cases import randomize

pytestmark = pytest.mark.usefixtures('warm_python')

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))
NAMES = ['a|b <i>', '`bee`', '# cat']
WITHOUT_US = '''
import sys
import timm, torch
from safetensors.torch import load_file

golden = load_file(sys.argv[1] + '/golden.safetensors')
model = timm.create_model('local-dir:' + sys.argv[1], pretrained=True).eval()
assert type(model) is timm.models.resnet.ResNet
with torch.no_grad():
    torch.testing.assert_close(model(golden['input']), golden['logits'], atol=1e-6, rtol=1e-5)
assert not any(name.startswith('iebn_zoo') for name in sys.modules)
print('loaded')
'''


def loads_without_this_package(directory):
    done = subprocess.run([sys.executable, '-c', WITHOUT_US, str(directory)], cwd=directory.parent, text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout == 'loaded\n'


@pytest.fixture
def in_process(monkeypatch):
    # the fresh process costs two imports of torch; where the reload is not the subject, check in this one
    monkeypatch.setattr('iebn_zoo.hub.convert.directory.reload_fresh', lambda made: check_directory(made).difference)


@pytest.fixture(scope='module')
def bn_file(tmp_path_factory):
    return saved(bn_network(), tmp_path_factory.mktemp('bn') / 'resnet18.pth')


@pytest.fixture(scope='module')
def converted(bn_file, tmp_path_factory):
    from iebn_zoo.cli import main
    output = tmp_path_factory.mktemp('out') / 'model'
    argv = ['--model', 'resnet18', '--checkpoint', bn_file, '--img-size', 32, '--output', output, *KWARGS]
    assert main(['convert', *map(str, argv)]) == 0  # reloads in a fresh process
    return output


def test_the_directory_is_the_bn_network_with_constant_gates(converted):
    assert set(os.listdir(converted)) == CONVERTED
    assert len({(converted / name).stat().st_mode for name in CONVERTED}) == 1
    model, bn = load(converted), bn_network()
    assert type(model).__name__ == 'IEBNResNet' and relative_difference(model, bn, X) <= 1e-6
    gated = [m for m in model.modules() if isinstance(m, IEBatchNorm2d)]
    assert len(gated) == 9 and all(
        m.get_parameter('gate_weight').eq(0).all() and m.get_parameter('gate_bias').eq(-1).all() for m in gated)
    golden = load_file(converted / 'golden.safetensors')
    with torch.no_grad():
        torch.testing.assert_close(bn(golden['input']), golden['logits'], atol=1e-6, rtol=1e-5)
    config = json.loads((converted / 'config.json').read_text())
    assert config['architecture'] == 'iebn_resnet18' and config['pretrained_cfg']['input_size'] == [3, 32, 32]
    assert 'license' not in config['pretrained_cfg']  # nobody said: not that of timm's own resnet18


def test_the_report_and_the_card_say_what_it_is(converted):
    report = json.loads((converted / 'conversion.json').read_text())
    assert (report['kind'], report['source'], report['source_architecture'], report['architecture']) == (
        'bn_to_iebn', 'resnet18.pth', 'resnet18', 'iebn_resnet18')
    assert report['converted_norms'] == 9 and report['left_norms'] == 4 and len(report['layers']) == 13
    assert [layer['after'] for layer in report['layers'] if 'downsample' in layer['names'][0]] == [None] * 4
    model, bn = load(converted), bn_network()
    golden = load_file(converted / 'golden.safetensors')['input']
    with torch.no_grad():
        expected = bn(golden)
        difference = (model(golden) - expected).abs().max().item()
    assert report['max_logit'] == pytest.approx(expected.abs().max().item())
    assert report['max_logit_difference'] == pytest.approx(difference, abs=1e-6)
    assert report['parameters'] == sum(p.numel() for p in model.parameters())
    assert report['gated_channels'] == sum(
        m.get_parameter('gate_bias').numel() for m in model.modules() if isinstance(m, IEBatchNorm2d))
    text = (converted / 'README.md').read_text()
    data = card_data(text)
    assert 'start for fine-tuning' in text
    assert f'at most {report["max_logit_difference"]:.3g}; the largest is {report["max_logit"]:.3g}' in text
    assert data.library_name == 'timm' and 'iebn' in data.tags
    assert data.license == 'unknown' and data.base_model is data.eval_results is None
    assert text.count('```python\nimport iebn_zoo') == 4


def test_back_to_bn(converted, tmp_path, capsys):
    code, out, _ = convert(capsys, '--model', f'local-dir:{converted}', '--to-bn', '--output', tmp_path / 'bn')
    assert code == 0 and out.startswith('9 of 9 norms converted') and loads_without_this_package(tmp_path / 'bn')
    state = load_file(tmp_path / 'bn' / 'model.safetensors')
    for key, value in bn_network().state_dict().items():
        torch.testing.assert_close(state[key], value, rtol=3e-7, atol=0)
    text = (tmp_path / 'bn' / 'README.md').read_text()
    assert 'import iebn_zoo' not in text and 'needs no other package' in text
    assert json.loads((tmp_path / 'bn' / 'conversion.json').read_text())['kind'] == 'iebn_to_bn'


def _timm_checkpoint(state, **more):
    args = Namespace(model='resnet18', model_kwargs=dict(layers=[1, 1, 1, 1], channels=[8, 8, 16, 16]), mean=[.1] * 3,
                     img_size=32, std=None)
    prefixed = {f'module.{k}': v for k, v in state.items()}
    return dict(dict(arch='resnet18', state_dict=prefixed, epoch=3, args=args, version=2), **more)


@pytest.mark.parametrize('form', ['safetensors', 'half', 'old', 'timm', 'timm-ema'])
def test_forms_of_a_checkpoint(form, tmp_path, capsys, in_process):
    state, path, argv = bn_network().state_dict(), tmp_path / 'file.pth', ['--model', 'resnet18', *KWARGS]
    if form == 'safetensors':
        path = tmp_path / 'file.safetensors'
        save_file(state, path)
    elif form == 'half':
        torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)
    elif form == 'old':  # before torch 0.4.1
        torch.save({k: v for k, v in state.items() if not k.endswith('num_batches_tracked')}, path)
    else:
        more = dict(state_dict_ema=state, state_dict={'conv1.weight': torch.zeros(1)}) if form == 'timm-ema' else {}
        torch.save(_timm_checkpoint(state, **more), path)
        argv = ['--use-ema'] if more else []
    if not form.startswith('timm'):
        argv += ['--img-size', '32']
    code, _, err = convert(capsys, '--checkpoint', path, '--output', tmp_path / 'out', *argv)
    assert code == 0, err
    assert relative_difference(load(tmp_path / 'out'), bn_network(), X) <= (1e-2 if form == 'half' else 1e-6)
    cfg = json.loads((tmp_path / 'out' / 'config.json').read_text())['pretrained_cfg']
    assert cfg['input_size'] == [3, 32, 32]
    assert cfg['mean'] == ([.1] * 3 if form.startswith('timm') else [0.485, 0.456, 0.406])  # as it was trained


def test_a_run_of_ours(tmp_path, capsys, in_process):
    run = make_run(tmp_path / 'run', 'bn_resnet20_cifar', labels=NAMES, ema=False, dataset='torch/cifar100', size=16)
    code, _, err = convert(capsys, '--checkpoint', run / LAST, '--output', tmp_path / 'out', '--gate-shortcuts',
                           '--repo-id', 'me/net', '--license', 'mit')
    assert code == 0, err
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['architecture'] == 'iebn_resnet20_cifar' and config['label_names'] == NAMES
    assert config['model_args']['gate_downsample'] is True and config['model_args']['layers'] == [1, 1, 1]
    assert config['pretrained_cfg']['mean'] == [0.5, 0.4, 0.3]
    model = load(tmp_path / 'out')
    assert isinstance(model.get_submodule('layer2.0.downsample.1'), IEBatchNorm2d)
    text = (tmp_path / 'out' / 'README.md').read_text()
    data = card_data(text)
    assert data.datasets == ['uoft-cs/cifar100'] and data.license == 'mit' and "'hf-hub:me/net'" in text
    assert '<i>' not in text.split('\n---\n', 1)[1] and str(tmp_path) not in text


def test_a_directory_keeps_labels_and_license(tmp_path, capsys, in_process):
    model = bn_network()
    set_cfg(model, dict(cfg_of(model), license='cc-by-4.0', input_size=(3, 32, 32)))
    save_for_hf(model, str(tmp_path / 'bn'), model_config=dict(label_names=NAMES), safe_serialization=True)
    output = tmp_path / 'out'
    argv = ['--model', f'local-dir:{tmp_path / "bn"}', '--output', output, '--base-model', 'me/base']
    assert convert(capsys, *argv)[0] == 0
    config = json.loads((output / 'config.json').read_text())
    assert config['label_names'] == NAMES and config['pretrained_cfg']['license'] == 'cc-by-4.0'
    data = card_data((output / 'README.md').read_text())
    assert data.license == 'cc-by-4.0' and (data.base_model, data.base_model_relation) == ('me/base', 'finetune')
    assert json.loads((output / 'conversion.json').read_text())['source'] == 'local-dir:bn'


@pytest.mark.parametrize('value', [{'a': 1}, 5, 'MIT *License* [x](http://x)\n\n# x'], ids=str)
def test_a_license_that_is_no_id_reaches_neither_card_nor_config(tmp_path, capsys, in_process, value):
    model = bn_network()
    set_cfg(model, dict(cfg_of(model), license=value, input_size=(3, 32, 32)))
    save_for_hf(model, str(tmp_path / 'bn'), safe_serialization=True)
    code, _, err = convert(capsys, '--model', f'local-dir:{tmp_path / "bn"}', '--output', tmp_path / 'out')
    assert code == 0, err
    text = (tmp_path / 'out' / 'README.md').read_text()
    assert card_data(text).license == 'unknown' and '**License of the weights:** unknown' in text
    assert 'license' not in json.loads((tmp_path / 'out' / 'config.json').read_text())['pretrained_cfg']


def test_pretrained_weights_of_timm_from_the_hub(hub, client_home, tmp_path):
    model = randomize(timm.create_model('resnet10t')).eval()
    save_for_hf(model, str(tmp_path / 'repo'), safe_serialization=True)
    hub.add_repo('timm/resnet10t.c3_in1k', {path.name: path.read_bytes() for path in (tmp_path / 'repo').iterdir()})
    output = tmp_path / 'out'
    done = subprocess.run(
        [sys.executable, '-m', 'iebn_zoo', 'convert', '--model', 'resnet10t.c3_in1k', '--pretrained', '--img-size',
         '64', '--output', str(output)],
        capture_output=True, text=True, timeout=300,
        env={**{k: v for k, v in os.environ.items() if not k.startswith('HF_')}, 'OMP_NUM_THREADS': '1',
             **hub.env(client_home)})
    assert done.returncode == 0, done.stderr
    assert relative_difference(load(output), model, torch.randn(2, 3, 64, 64)) <= 1e-6
    data = card_data((output / 'README.md').read_text())
    assert data.base_model == 'timm/resnet10t.c3_in1k' and data.license == 'apache-2.0'
    assert 'were trained with BatchNorm, not with IEBN' in (output / 'README.md').read_text()
    assert json.loads((output / 'conversion.json').read_text())['base_model'] == 'timm/resnet10t.c3_in1k'


def test_carried_weights_of_grey_images_there_and_back(tmp_path, in_process, capsys):
    name = 'bn_resnet20_cifar.fashion_mnist'
    code, _, err = convert(capsys, '--model', name, '--pretrained', '--output', tmp_path / 'a')
    assert code == 0, err
    code, _, err = convert(capsys, '--model', f'local-dir:{tmp_path / "a"}', '--to-bn', '--output', tmp_path / 'b')
    assert code == 0, err
    x = torch.randn(2, 1, 28, 28)
    carried = timm.create_model(name, pretrained=True).eval()
    with torch.no_grad():
        for made in 'ab':
            torch.testing.assert_close(load(tmp_path / made)(x), carried(x), atol=1e-5, rtol=1e-5)


def test_a_conversion_of_carried_weights_says_what_they_are(tmp_path, capsys):
    """The package has the flags of their training, and so the data."""
    source = 'bn_resnet20_cifar.fashion_mnist'
    assert convert(capsys, '--model', source, '--pretrained', '--output', tmp_path / 'out')[0] == 0
    text = (tmp_path / 'out' / 'README.md').read_text()
    assert card_data(text).datasets == ['zalando-datasets/fashion_mnist']
    assert '- **Dataset:** Fashion-MNIST\n' in text and f'`{source}`, which the package iebn-zoo carries' in text
    assert 'not known' not in text and 'were trained with BatchNorm, not with IEBN' in text
    cards = tmp_path / 'cards'
    cards.mkdir()
    folder = read_folder(add(cards, tmp_path / 'out', 'converted', example=True))
    assert folder.dataset == ('zalando-datasets/fashion_mnist', 'Fashion-MNIST')
    assert f' {escape(source)} |' in index([folder])
    # the same weights as a file are those of nobody
    weights = next(path for path in resource_directories('hub_cards', source)) / 'model.safetensors'
    shutil.copy(weights, tmp_path / 'mine.safetensors')
    assert convert(capsys, '--model', 'bn_resnet20_cifar', '--checkpoint', tmp_path / 'mine.safetensors', '--output',
                   tmp_path / 'other')[0] == 0
    assert 'not known here' in (tmp_path / 'other' / 'README.md').read_text()


def test_a_conversion_of_an_earlier_version_needs_its_dataset(tmp_path, capsys, bn_file):
    argv = ('--model', 'resnet18', '--checkpoint', bn_file, *KWARGS, '--output', tmp_path / 'out')
    assert convert(capsys, *argv)[0] == 0
    report = json.loads((tmp_path / 'out' / 'conversion.json').read_text())
    assert report.pop('trained_on') == dict(id=None, name='that of the source, not known here')
    (tmp_path / 'conversion.json').write_text(json.dumps(report))
    assert _dataset_of(tmp_path, 'me/data') == dict(id='me/data', name='me/data')
    with pytest.raises(UsageError, match='conversion.json .* does not say what.*\n.*--dataset-id'):
        _dataset_of(tmp_path, None)
