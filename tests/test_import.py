"""What `import iebn_zoo` costs and leaves behind, looked at from fresh processes."""
import json
import subprocess
import sys

import pytest

PROBE = '''
import json, sys
import timm, torch

def functions(module):
    return {k: [id(v), id(getattr(v, '__code__', None)), id(getattr(v, '__globals__', None)),
                repr(getattr(v, '__defaults__', None)), sorted((n, id(a)) for n, a in vars(v).items())
                if isinstance(v, type) else None]
            for k, v in vars(module).items() if not k.startswith('__') and callable(v)}

def snapshot():
    from timm.layers import create_norm, create_norm_act
    names = {n for n in loaded if n.split('.')[0] in ('timm', 'torch') and sys.modules[n] is not None}
    return {
        'attributes': {n: sorted((k, id(v)) for k, v in vars(sys.modules[n]).items() if not k.startswith('__'))
                       for n in names if n.split('.')[0] == 'timm'},
        'resnet': functions(sys.modules['timm.models.resnet']),
        'batch_norm': sorted((k, id(v)) for k, v in vars(torch.nn.BatchNorm2d).items()),
        'norm_map': sorted((k, id(v)) for m in (create_norm, create_norm_act)
                           for n, d in vars(m).items() if isinstance(d, dict) and n.startswith('_NORM')
                           for k, v in d.items()),
        'list_resnet': timm.list_models(module='resnet'), 'list_timm': [n for n in timm.list_models() if n not in ours],
    }

ours = ()
loaded = set(sys.modules)
before = snapshot()
import iebn_zoo
new = sorted(set(sys.modules) - loaded)
ours = set(timm.list_models('iebn_*')) | set(timm.list_models('*_cifar'))
after = snapshot()
json.dump({
    'new': new, 'ours': len(ours), 'list_resnet': after['list_resnet'],
    'maps': len(before['norm_map']), 'functions': len(before['resnet']), 'modules': len(before['attributes']),
    'changed': [k for k in before if before[k] != after[k]]}, open(sys.argv[1], 'w'))
'''


@pytest.fixture(scope='module')
def probe(tmp_path_factory):
    path = tmp_path_factory.mktemp('probe') / 'probe.json'
    done = subprocess.run([sys.executable, '-c', PROBE, str(path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return {**json.loads(path.read_text()), 'printed': done.stdout + done.stderr}


def test_prints_nothing(probe):
    assert probe['printed'] == ''


def test_patches_nothing(probe):
    assert probe['changed'] == []
    # the probe looked at something
    assert probe['maps'] > 10 and probe['functions'] > 80 and probe['modules'] > 100 and probe['ours'] == 83
    assert 'resnet50' in probe['list_resnet'] and not any('iebn' in n for n in probe['list_resnet'])


def test_imports_only_what_the_models_need(probe):
    # this is what importing costs: a bound on its time would be one on the machine
    new = probe['new']
    assert 'iebn_zoo.models.iebn_cifar' in new
    assert not any(name.startswith(('matplotlib', 'yaml', 'tqdm', 'sklearn', 'PIL')) for name in new)
    own = {name for name in new if name.startswith('iebn_zoo.')}
    rooms = {name.split('.')[1] for name in own}
    util = {name for name in own if name.startswith('iebn_zoo.util.')}
    assert util == {'iebn_zoo.util.errors', 'iebn_zoo.util.resources'}
    assert rooms <= {'_compat', 'layers', 'models', 'ops', 'util', 'version'}
    assert {name.split('.')[0] for name in new} <= {'iebn_zoo', 'safetensors', 'timm', 'torch'}
