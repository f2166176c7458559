"""Each format by itself: what a network becomes, what a stranger's file may not do, what is missing is named."""
import json
import os
import re
import sys
import zipfile

import pytest
import torch

from iebn_zoo.hub.formats.table import FORMATS, chosen_formats, import_package, missing_packages
from iebn_zoo.hub.formats.torchscript_file import run_torchscript
from iebn_zoo.hub.formats.torchscript_program import OtherOperators
from iebn_zoo.hub.package.runtimes import write_formats
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.resources import install_command, install_line
from tests.support.hub.formats import Other, Reading, Writing, rewritten, small_network

pytestmark = pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::DeprecationWarning',
                                        'ignore:Duplicate name')
onnx = pytest.importorskip('onnx', reason=install_line('onnx'))
absent = [reason for reason in map(missing_packages, FORMATS.values()) if reason]
if absent:
    pytest.skip(absent[0], allow_module_level=True)


@pytest.mark.parametrize('arch, size, classes, args', [
    ('iebn_resnet20_cifar', (1, 33, 27), 2, {}),  # grey, odd and not square, two classes
    ('iebn_preresnet164_cifar', (3, 20, 20), 5, dict(layers=[1, 1, 1])),
    ('test_vit', (3, 32, 32), 4, dict(img_size=32, drop_path_rate=0.2)),
    ('test_efficientnet', (5, 32, 32), 3, {}),
])
def test_other_networks(arch, size, classes, args, tmp_path):
    model, network = small_network(arch, size, classes, **args)
    model = model.to(memory_format=torch.channels_last)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    facts = write_formats(tmp_path, model, network, chosen_formats(list(FORMATS)))
    assert [f.difference <= 1e-4 * max(f.largest, 1e-3) for f in facts] == [True] * 3
    assert sorted(os.listdir(tmp_path)) == sorted(file for f in facts for file in f.files)
    assert not any(m.training for m in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp('formats')
    model, network = small_network()
    write_formats(directory, model, network, chosen_formats(list(FORMATS)))
    return directory, model


def test_each_file_says_what_its_user_needs(written):
    directory, model = written
    props = {p.key: p.value for p in onnx.load(directory / 'model.onnx').metadata_props}
    extra = {'metadata.json': ''}
    program = torch.jit.load(str(directory / 'model.torchscript.pt'), _extra_files=extra)
    read = import_package('openvino').Core().read_model(directory / 'openvino_model.xml')
    info = {key: read.get_rt_info(['model_info', key]).value for key in props}
    assert props == json.loads(extra['metadata.json']) == info
    assert json.loads(props['label_names']) == [f'class {i}' for i in range(4)] and props['mean'] == '[0.5, 0.4, 0.3]'
    assert [i.get_any_name() for i in (*read.inputs, *read.outputs)] == ['pixel_values', 'logits']
    assert {str(i.get_partial_shape()) for i in read.inputs} == {'[?,3,32,32]'}
    # everything is float32, and the program has parameters that a user can move to another device
    assert {p.dtype for p in program.parameters()} == {torch.float32} and len(list(program.parameters())) == len(
        list(model.parameters()))
    assert {node.get_element_type().get_type_name() for node in read.get_ops() if node.get_type_name() == 'Constant'
            and len(node.shape) == 4 and node.get_element_type().is_real()} == {'f32'}


def test_no_place_of_this_machine_is_in_any_file(written):
    directory, _ = written
    for name in os.listdir(directory):
        content = (directory / name).read_bytes()
        for place in (str(directory), os.path.expanduser('~') + '/', os.path.dirname(torch.__file__),
                      os.path.dirname(os.path.dirname(__file__))):
            assert place.encode() not in content, (name, place)
    with zipfile.ZipFile(directory / 'model.torchscript.pt') as archive:
        assert not [name for name in archive.namelist() if 'debug' in name]


def test_the_second_exporter_of_onnx_leaves_no_place_either(tmp_path, monkeypatch):
    export = torch.onnx.export

    def failing(*args, dynamo, **kwargs):
        if not dynamo:
            raise RuntimeError('the first exporter fails')
        return export(*args, dynamo=dynamo, **kwargs)

    monkeypatch.setattr(torch.onnx, 'export', failing)
    model, network = small_network(size=(1, 8, 8))
    (facts,) = write_formats(tmp_path, model, network, chosen_formats(['onnx', 'onnx']))
    assert facts.difference < 1e-4
    assert os.path.dirname(torch.__file__).encode() not in (tmp_path / 'model.onnx').read_bytes()
    assert os.listdir(tmp_path) == ['model.onnx']  # with its weights inside
    monkeypatch.setattr(torch.onnx, 'export', lambda *a, dynamo, **k: failing(*a, dynamo=False, **k))
    with pytest.raises(IEBNZooError, match=r'ONNX cannot hold iebn_resnet20_cifar .*the first exporter fails') as e:
        write_formats(tmp_path, model, network, chosen_formats(['onnx']))
    assert 'Leave onnx out of --formats' in str(e.value) and len(str(e.value).splitlines()) <= 3


def test_weights_that_are_too_large_for_one_onnx_file(tmp_path, monkeypatch):
    monkeypatch.setattr('iebn_zoo.hub.formats.onnx_file._LIMIT', 1000)
    model, network = small_network(size=(1, 8, 8))
    with pytest.raises(IEBNZooError, match='model.onnx would hold .* GB of weights') as e:
        write_formats(tmp_path, model, network, chosen_formats(['onnx']))
    assert 'Leave onnx out of --formats' in str(e.value) and not os.listdir(tmp_path)


def test_logits_that_are_not_finite(tmp_path):
    model, network = small_network(size=(1, 8, 8))
    with torch.no_grad():
        model.fc.weight.mul_(1e38)
    with pytest.raises(IEBNZooError, match='logits that are not finite'):
        write_formats(tmp_path, model, network, chosen_formats(['torchscript']))
    assert not os.listdir(tmp_path)


class Rounding(torch.nn.Module):
    """Computes what ``model`` computes, and loses most digits on the way."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        # both sums are the same but for rounding, in which the order shows that a runtime adds in
        there, back = (1e6 * x.flatten(1)), (1e6 * x.flatten(1).flip(1))
        return self.model(x) + 0.1 * (there.sum(1, keepdim=True) - back.sum(1, keepdim=True))


def test_a_network_that_rounds_much_is_measured_in_float64(tmp_path, monkeypatch):
    model, network = small_network(size=(1, 32, 32))
    rounding = Rounding(model).eval()
    (facts,) = write_formats(tmp_path, rounding, network, chosen_formats(['onnx']))
    assert facts.difference > 1e-4 * facts.largest
    monkeypatch.setattr('iebn_zoo.hub.package.runtimes._ROUNDINGS', 0)
    with pytest.raises(IEBNZooError, match='^model.onnx does not compute the golden logits: in onnxruntime'):
        write_formats(tmp_path, rounding, network, chosen_formats(['onnx']))


class FixedBatch(torch.nn.Module):
    """Computes what ``model`` computes for two images, and remembers that there were two."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).reshape(len(x), -1) + torch.zeros(int(x.shape[0]), 4)


@pytest.mark.parametrize('name', FORMATS)
def test_a_batch_that_was_taken_for_a_constant_is_an_error(name, tmp_path):
    model, network = small_network(size=(1, 8, 8))
    with pytest.raises(IEBNZooError, match='batch') as e:
        write_formats(tmp_path, FixedBatch(model).eval(), network, chosen_formats([name]))
    assert FORMATS[name].file in str(e.value) and len(str(e.value).splitlines()) <= 3


def test_what_is_missing_is_named(monkeypatch):
    for name in ('onnxruntime', 'openvino'):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(UsageError, match=f'--formats onnx: onnxruntime .*{re.escape(install_command("onnx"))}'):
        chosen_formats(['torchscript', 'onnx'])
    assert install_command('openvino') in (missing_packages(FORMATS['openvino']) or '')
    with pytest.raises(UsageError, match=r"unknown format 'tflite'.\nExpected some of onnx, torchscript, openvino"):
        chosen_formats(['tflite'])
    with pytest.raises(UsageError, match='a list of names'):
        chosen_formats('torchscript')
    assert chosen_formats(['torchscript', 'torchscript']) == (FORMATS['torchscript'],) and chosen_formats([]) == ()


@pytest.mark.parametrize('error', ["TypeError('Descriptors cannot be created directly.\\nTry this.')",
                                   "OSError('libother.so: no such file')", 'RuntimeError()', "ImportError('libx.so')"])
def test_a_broken_package_is_named_like_a_missing_one(error, tmp_path, monkeypatch):
    (tmp_path / 'onnxruntime.py').write_text(f'raise {error}\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'onnxruntime', raising=False)
    reason = missing_packages(FORMATS['onnx'])
    assert reason is not None and reason.startswith('onnxruntime does not import (') and '\n' not in reason
    assert error.split('(')[0] in reason or 'libx.so' in reason
    with pytest.raises(UsageError, match='--formats onnx: onnxruntime does not import') as e:
        chosen_formats(['onnx'])
    assert install_command('onnx') in str(e.value) and len(str(e.value).splitlines()) <= 3


def test_openvino_is_imported_without_its_telemetry():
    """It would tell a web service of each import and conversion."""
    import_package('openvino')
    told = [module for name, module in sys.modules.items() if name.endswith('ovc.telemetry_utils')]
    assert [module.tm.__name__ for module in told] == ['openvino.tools.ovc.telemetry_stub']


def saved(module, path):
    torch.jit.save(torch.jit.script(module), str(path))
    rewritten(path, lambda name, content: content)  # torch compresses the code, an export does not
    return path


def test_a_program_of_a_stranger_is_not_run(written, tmp_path, monkeypatch):
    directory, model = written
    monkeypatch.chdir(tmp_path)
    batches = [torch.randn(2, 3, 32, 32)]
    torch.save(3, 'before')
    for module, named in ((Reading(), 'aten::from_file'), (Writing(), '__[gs]etstate__')):
        path = saved(module, tmp_path / 'model.torchscript.pt')
        for name in ('written', 'secret'):
            (tmp_path / name).unlink(missing_ok=True)
        with pytest.raises(IEBNZooError, match=named) as e:
            run_torchscript(path, batches, model)
        assert 'was not run' in str(e.value) and len(str(e.value).splitlines()) <= 3
        assert sorted(os.listdir(tmp_path)) == ['before', 'model.torchscript.pt']
    with pytest.raises(OtherOperators, match='aten::erfinv'):
        run_torchscript(saved(Other(), tmp_path / 'model.torchscript.pt'), batches, model)


@pytest.mark.parametrize('damage', [
    lambda path: rewritten(path, lambda name, content: content, zipfile.ZIP_DEFLATED),
    lambda path: rewritten(path, lambda name, content: content, twice=True),
    lambda path: path.write_bytes(b'#!/bin/sh\n' + path.read_bytes()),
    lambda path: path.write_bytes(path.read_bytes()[:9000]),
    lambda path: path.write_bytes(b''),
    lambda path: rewritten(path, lambda name, content: content + b' torch.classes.x' if '.pkl' in name else content),
], ids=['compressed', 'one name twice', 'something before it', 'truncated', 'empty', 'a class of torch'])
def test_an_archive_that_torch_did_not_write(written, tmp_path, damage):
    directory, model = written
    path = tmp_path / 'model.torchscript.pt'
    path.write_bytes((directory / 'model.torchscript.pt').read_bytes())
    batches = [torch.randn(2, 3, 32, 32)]
    assert len(run_torchscript(path, batches, model)) == 1
    damage(path)
    with pytest.raises(IEBNZooError) as e:
        run_torchscript(path, batches, model)
    assert str(path) in str(e.value) and len(str(e.value).splitlines()) <= 3


def test_an_onnx_file_that_points_to_another_file(written, tmp_path):
    from iebn_zoo.hub.formats.onnx_file import run_onnx
    directory, _ = written
    loaded = onnx.load(directory / 'model.onnx')
    onnx.save(loaded, str(tmp_path / 'model.onnx'), save_as_external_data=True, location='elsewhere', size_threshold=0)
    with pytest.raises(IEBNZooError, match='takes a tensor from another file. It was not run'):
        run_onnx(tmp_path / 'model.onnx', [torch.randn(1, 3, 32, 32)])
