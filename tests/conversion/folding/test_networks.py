"""The folded networks are the BN networks of timm and of the zoo, module by module."""
import json
import subprocess
import sys

import pytest
import timm
import torch
from timm.models._hub import save_for_hf

from iebn_zoo import IEBatchNorm2d, convert_iebn_to_bn, fold_gates
from iebn_zoo.util.errors import UsageError
from tests.support.conversion.folded_networks import images, react, zoo_model
from tests.support.models.cases import IEBN_CIFAR, IMAGENET, ids

pytestmark = pytest.mark.usefixtures('warm_python')

# more blocks of the same kind add nothing
DISTINCT = IMAGENET + [c for c in IEBN_CIFAR if c.name[5:-6] in (
    'resnet20', 'resnet164', 'preresnet164', 'wrn28_10', 'resnext29_8x32d')]
PLAIN = {'IEBNResNet': 'ResNet', 'IEBNBasicBlock': 'BasicBlock', 'IEBNBottleneck': 'Bottleneck'}


def kinds(model):
    return {n: PLAIN.get(type(m).__name__, type(m).__name__) for n, m in model.named_modules()}


@pytest.mark.parametrize('case', DISTINCT, ids=ids)
@pytest.mark.parametrize('kwargs', [
    {}, {'gate_downsample': True, 'drop_path_rate': 0.1}, {'fuse_act': False, 'drop_block_rate': 0.1},
], ids=['default', 'gated-shortcuts-drop-path', 'unfused-drop-block'])
def test_is_the_bn_network(case, kwargs):
    folded, _ = fold_gates(react(case.create(**kwargs)), case.input(3))
    base = folded.pretrained_cfg['architecture']
    assert base in (case.name.replace('iebn_', ''), case.name.replace('iebn_', 'bn_'))
    drop = {k: v for k, v in kwargs.items() if k.startswith('drop')}
    plain = timm.create_model(base, num_classes=5, **case.kwargs, **drop).eval()
    assert not any(isinstance(m, IEBatchNorm2d) for m in plain.modules())
    assert kinds(folded) == kinds(plain)
    plain.load_state_dict(folded.state_dict(), strict=True)
    x = case.input(2)
    assert torch.equal(folded(x), plain(x))


@pytest.mark.parametrize('name', ['iebn_resnet18', 'iebn_resnet20_cifar', 'iebn_preresnet164_cifar'])
@pytest.mark.parametrize('feature_cls', ['list', 'hook', 'getter'])
def test_features_only(name, feature_cls):
    kwargs = dict(features_only=True, feature_cls=feature_cls, layers=(1, 1, 1) if 'cifar' in name else (1, 1, 1, 1))
    model = react(timm.create_model(name, **kwargs)).eval()
    folded, _ = fold_gates(model, images(2, 32))
    plain = timm.create_model(name.replace('iebn_', 'bn_' if 'cifar' in name else ''), **kwargs).eval()
    plain.load_state_dict(folded.state_dict())
    x = images(2, 32, seed=6)
    for a, b in zip(folded(x), plain(x), strict=True):
        torch.testing.assert_close(a, b)
    assert len(folded(x)) == len(model(x)) == (4 if 'cifar' in name else 5)


@pytest.mark.parametrize('name, layer', [('iebn_resnet18', 'layer1.0.bn2'), ('iebn_resnet20_cifar', 'layer1.0.bn2')])
def test_a_graph_with_shortcuts_in_its_norms_is_refused(name, layer):
    model = timm.create_model(name, features_only=True, feature_cls='fx').eval()
    before, x = list(model.modules()), images(2, 32)
    expected = model(x)
    for convert in (convert_iebn_to_bn, lambda model: fold_gates(model, x)):
        with pytest.raises(UsageError, match=f'FeatureGraphNet has its layer .{layer}. add a shortcut'):
            convert(model)
    assert list(model.modules()) == before
    for a, b in zip(model(x), expected, strict=True):
        assert torch.equal(a, b)


def test_a_graph_without_is_folded():
    kwargs = dict(features_only=True, feature_cls='fx', layers=(1, 1, 1))
    model = react(timm.create_model('iebn_preresnet164_cifar', **kwargs)).eval()
    folded, _ = fold_gates(model, images(2, 32))
    plain = timm.create_model('bn_preresnet164_cifar', **kwargs).eval()
    plain.load_state_dict(folded.state_dict())
    x = images(2, 32, seed=6)
    for a, b in zip(folded(x), plain(x), strict=True):
        torch.testing.assert_close(a, b)


WITHOUT_US = '''
import sys
import timm, torch
from safetensors.torch import load_file

directory, golden = sys.argv[1:]
golden = load_file(golden)
model = timm.create_model('resnet18', num_classes=10)
model.load_state_dict(load_file(directory + '/model.safetensors'), strict=True)
saved = timm.create_model('local-dir:' + directory, pretrained=True)
for m in (model, saved):
    assert type(m) is timm.models.resnet.ResNet
    with torch.no_grad():
        torch.testing.assert_close(m.eval()(golden['input']), golden['logits'], atol=1e-5, rtol=1e-5)
assert not any(name.startswith('iebn_zoo') for name in sys.modules)
print('loaded')
'''


def test_timm_loads_it_without_this_package(tmp_path):
    from safetensors.torch import save_file
    model = zoo_model('iebn_resnet18', layers=(2, 2, 2, 2), num_classes=10, gate_downsample=True)
    folded, _ = fold_gates(model, images(2, 64))
    x = images(2, 64, seed=7)
    with torch.no_grad():
        save_file({'input': x, 'logits': folded(x)}, tmp_path / 'golden.safetensors')
    save_for_hf(folded, str(tmp_path / 'saved'), safe_serialization=True)
    assert json.loads((tmp_path / 'saved' / 'config.json').read_text())['architecture'] == 'resnet18'
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_US, str(tmp_path / 'saved'), str(tmp_path / 'golden.safetensors')],
        cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'loaded\n'


def test_the_source_of_the_old_weights_is_forgotten():
    model = zoo_model()
    model.pretrained_cfg.update(hf_hub_id='timm/somebody', tag='bn_a1', url='https://example.org/x')
    folded, _ = fold_gates(model, images(2))
    assert not {'hf_hub_id', 'tag', 'url'} & set(folded.pretrained_cfg)
    assert folded.default_cfg is folded.pretrained_cfg and folded.pretrained_cfg['mean'] == model.pretrained_cfg['mean']
    assert model.pretrained_cfg['tag'] == 'bn_a1'
