"""What a stranger's file says reaches no loader: no request, no file, refused by name, through every command."""
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import timm
import torch

from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.weights.arguments import check_arguments, is_refused
from iebn_zoo.weights.open import open_network, start_network
from iebn_zoo.weights.settings import cfg_of
from tests.support.hub.exported import make_export
from tests.support.hub.loopback import LoopbackHub
from tests.support.training.datasets import flags
from tests.support.weights.files import as_ours, as_timms, bn_network, checkpoint, export_with, refused, run

pytestmark = pytest.mark.usefixtures('warm_python')

# all that timm's factory, its builder and its loader take that is no architecture
DANGEROUS = {
    'pretrained': True, 'pretrained_cfg': {'url': 'http://x/y'}, 'pretrained_cfg_overlay': {'url': 'http://x/y'},
    'pretrained_strict': False, 'pretrained_filter_fn': 'f', 'pretrained_model_args': {}, 'pretrained_anything': 1,
    'cache_dir': '/tmp', 'checkpoint_path': 'x', 'hf_hub_id': 'a/b', 'hf_hub_filename': 'x.bin', 'custom_load': True,
    'kwargs_filter': ['num_classes'], 'features_only': True, 'feature_cfg': {}, 'feature_cls': 'fx', 'out_indices': [1],
    'scriptable': True, 'exportable': True, 'no_jit': True, 'pruned': True, 'model_cfg': {}, 'device': 'cpu',
    'dtype': 'float16', 'file': 'x', 'url': 'http://x/y', 'state_dict': {}}


@pytest.fixture
def server(tmp_path):
    """A real HTTP server that gives everyone a state dict, and the paths it was asked for."""
    torch.save(bn_network().state_dict(), tmp_path / 'served.pth')
    body, asked = (tmp_path / 'served.pth').read_bytes(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{http.server_address[1]}', asked
        http.shutdown()


def hostile(url, target):
    return {'pretrained': True, 'cache_dir': str(target), 'pretrained_cfg_overlay': {'url': f'{url}/evil.py'}}


def test_the_attack_works_where_nobody_checks(server, tmp_path):
    url, asked = server
    timm.create_model('bn_resnet32_cifar', num_classes=3, layers=[1, 1, 1], **hostile(url, tmp_path / 'target'))
    assert asked == ['/evil.py'] and os.listdir(tmp_path / 'target') == ['evil.py']


def commands(tmp_path, arguments, images):
    changed = checkpoint(model_args={**checkpoint()['model_args'], **arguments})
    ours, timms = as_ours(changed, tmp_path / 'run'), as_timms(changed, tmp_path / 'timm')
    exported = export_with(tmp_path / 'export', lambda config: config.setdefault('model_args', {}).update(arguments))
    data = ['--data-dir', images]
    return {
        'validate a checkpoint': ['validate', '--checkpoint', ours, *data],
        "validate timm's checkpoint": ['validate', '--checkpoint', timms, *data],
        'validate a directory': ['validate', '--model', f'local-dir:{exported}', *data],
        'validate the weights of a directory': ['validate', '--checkpoint', exported / 'model.safetensors', *data],
        'export': ['export', tmp_path / 'run', '--output', tmp_path / 'out'],
        'convert a checkpoint': ['convert', '--fold', '--checkpoint', ours, '--output', tmp_path / 'out', *data],
        "convert timm's checkpoint": ['convert', '--to-bn', '--checkpoint', timms, '--output', tmp_path / 'out'],
        'convert a directory': ['convert', '--to-bn', '--model', f'local-dir:{exported}', '--output', tmp_path / 'out'],
        'train from a directory': [
            'train', *flags(images, tmp_path / 'new', '--model', f'local-dir:{exported}', '--pretrained')],
        'train the architecture of a directory': [
            'train', *flags(images, tmp_path / 'new', '--model', f'local-dir:{exported}')],
        'train from a checkpoint': ['train', *flags(images, tmp_path / 'new', '--initial-checkpoint', str(ours))],
    }


def test_no_command_asks_or_writes(server, tmp_path, image_folder, capsys):
    url, asked = server
    target = tmp_path / 'target'
    for what, argv in commands(tmp_path, hostile(url, target), image_folder).items():
        refused(run(capsys, *argv), "'pretrained'", 'refused')
        assert not asked and not target.exists(), what
    assert not (tmp_path / 'out').exists() and not list(tmp_path.glob('new/*.pth.tar'))


def test_from_the_hub(server, tmp_path, image_folder):
    url, asked = server
    target = tmp_path / 'target'
    exported = export_with(tmp_path / 'export', lambda config: config.setdefault('model_args', {}).update(
        hostile(url, target)))
    with LoopbackHub() as hub:
        hub.add_repo('me/evil', {name: (exported / name).read_bytes() for name in ('config.json', 'model.safetensors')})
        env = {k: v for k, v in os.environ.items() if not k.startswith(('HF_', 'HUGGING'))}
        for argv in (['validate', '--data-dir', image_folder], ['convert', '--to-bn', '--output', tmp_path / 'out']):
            done = subprocess.run(
                [sys.executable, '-m', 'iebn_zoo', *map(str, argv), '--model', 'hf-hub:me/evil'],
                text=True, timeout=300, capture_output=True,
                env={**env, 'OMP_NUM_THREADS': '1', **hub.env(tmp_path / 'home')})
            refused((done.returncode, done.stdout, done.stderr), "'pretrained'", 'refused')
        assert not any('model.safetensors' in request.path for request in hub.requests)
    assert not asked and not target.exists()


@pytest.mark.parametrize('name', DANGEROUS)
def test_each_is_refused_by_name(name, tmp_path, capsys):
    arguments = {name: DANGEROUS[name]}
    for architecture in ('iebn_resnet20_cifar', 'resnet18', 'vit_tiny_patch16_224', 'efficientnet_b0', ''):
        for own, error in ((True, UsageError), (False, IEBNZooError)):
            with pytest.raises(error, match=f"x sets '{name}', which loads"):
                check_arguments(architecture, arguments, 'x', own)
    path = as_ours(checkpoint(model_args={**checkpoint()['model_args'], **arguments}), tmp_path)
    with pytest.raises(IEBNZooError, match=f"'{name}'"):
        open_network(checkpoint=path)
    with pytest.raises(UsageError, match=f"'{name}'"):
        start_network('iebn_resnet20_cifar', False, {'num_classes': 3, name: DANGEROUS[name]})


@pytest.mark.parametrize('field, value', [
    ('url', 'http://127.0.0.1:9/x'), ('file', '/etc/passwd'), ('state_dict', {'a': 1}), ('hf_hub_filename', 'x.bin'),
    ('custom_load', True), ('custom_load', 'hf')])
def test_another_place_of_weights_in_the_config_is_refused(field, value, tmp_path):
    for section in ('pretrained_cfg', None):
        exported = export_with(tmp_path / str(section), lambda config, section=section: (
            config[section] if section else config).update({field: value}))
        with pytest.raises(IEBNZooError, match=f'{field} names another place'):
            open_network(f'local-dir:{exported}')


def test_every_parameter_of_timms_factory_is_refused():
    # a parameter that a new timm adds to its factory or its builder must be looked at
    import inspect

    from timm.models import build_model_with_cfg
    for function in (timm.create_model, build_model_with_cfg):
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is not parameter.VAR_KEYWORD:
                assert is_refused(name), name


@pytest.mark.parametrize('architecture, arguments', [
    ('iebn_resnet20_cifar', dict(layers=[1, 1, 1], channels=[8, 16, 32], stem_width=8, start='paper',
                                 freeze_gate_weight=True, fuse_act=False, gate_downsample=True, zero_init_last=True)),
    ('iebn_wrn16_8_cifar', dict(layers=[1, 1, 1], channels=[16, 32, 64], block_args={'conv_drop_rate': 0.3})),
    ('iebn_resnet18', dict(layers=[1, 1, 1, 1], channels=[8, 8, 16, 16], start='bn', drop_rate=0.1, global_pool='max')),
    ('resnet50', dict(layers=[1, 1, 1, 1], channels=[8, 8, 16, 16], drop_path_rate=0.1, act_layer='gelu')),
    ('vit_tiny_patch16_224', dict(img_size=[32, 64], depth=1, embed_dim=48, num_heads=2, init_values=None)),
    ('efficientnet_b0', dict(num_classes=3, bn_eps=1e-3, drop_rate=0.1)),
    ('swinv2_tiny_window8_256', dict(pretrained_window_sizes=[0, 0, 0, 0], img_size=64, window_size=4)),
    ('regnetx_002', dict(num_classes=3, output_stride=16)),
    ('convnext_atto', dict(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8], ls_init_value=1e-6)),
])
def test_plain_arguments_reach_the_network(architecture, arguments):
    model = start_network(architecture, False, {'num_classes': 3, **arguments}).model
    recorded = getattr(model, '_model_args', {})
    assert model.num_classes == 3 and all(recorded[k] == v for k, v in arguments.items() if v is not None)
    check_arguments(architecture, json.loads(json.dumps(arguments)), 'a config.json')


@pytest.mark.parametrize('value', [
    object(), print, float('nan'), float('inf'), 10**9, 'a/b', 'http://x', '..\\x', 'x' * 200, [[[[[1]]]]], {1: 2},
    {'pretrained': True}, [print], torch.ones(2), b'x', {'a': {'cache_dir': '.'}}], ids=lambda v: type(v).__name__)
def test_values_that_are_not_plain(value):
    with pytest.raises(IEBNZooError, match='Expected a plain value') as e:
        check_arguments('iebn_resnet20_cifar', {'block_args': value}, 'x.pth: model_args')
    assert len(str(e.value).splitlines()) == 2


@pytest.mark.parametrize('arguments, named', [
    ([1, 2], 'is [1, 2]'), (None, 'is None'), ({5: 1}, 'not by int'), ({'nothing': 1}, "sets 'nothing', which is"),
    ({'__class__': 1}, "sets '__class__'"), ({'self': 1}, "sets 'self'"), ({'x' * 5000: 1}, 'xxx...')], ids=str)
def test_arguments_that_are_none(arguments, named):
    with pytest.raises(IEBNZooError) as e:
        check_arguments('resnet18', arguments, 'x.pth: model_args')
    assert named in str(e.value) and len(str(e.value)) < 400


def test_a_good_export_still_loads(tmp_path):
    exported = make_export(tmp_path / 'export')
    assert open_network(f'local-dir:{exported}').model.num_classes == 4
    assert 'state_dict' not in cfg_of(open_network(f'local-dir:{exported}').model)


@pytest.mark.parametrize('given', ['cache_dir=x', 'pretrained=True', 'name=5', 'model_name=x', 'features_only=True',
                                   'device=cuda', 'pretrained_cfg_overlay={"url":"http://127.0.0.1:9/x"}'])
def test_the_users_own_arguments_are_of_the_architecture_too(given, tmp_path, image_folder, capsys):
    name = given.partition('=')[0]
    refused(run(capsys, 'train', *flags(image_folder, tmp_path / 'run', '--model-kwargs', given)), f"'{name}'")
    path = as_ours(checkpoint(), tmp_path)
    refused(run(capsys, 'convert', '--to-bn', '--checkpoint', path, '--model-kwargs', given, '--output',
                tmp_path / 'out'), f"'{name}'")


def test_two_places_of_weights_contradict(tmp_path, image_folder, capsys):
    path = as_ours(checkpoint(), tmp_path)
    both = flags(image_folder, tmp_path / 'run', '--pretrained', '--initial-checkpoint', str(path))
    refused(run(capsys, 'train', *both), '--pretrained has weights of its own', '--no-pretrained')
    refused(run(capsys, 'validate', '--model', 'hf-hub:me/x', '--checkpoint', path, '--data-dir', image_folder),
            'has weights of its own')
