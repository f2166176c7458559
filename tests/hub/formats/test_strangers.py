"""Files of a stranger: nothing in them runs while they are loaded, and no runtime reads another file for them."""
import os
import struct
import zipfile

import pytest
import torch

from iebn_zoo.hub.formats import torchscript_file, torchscript_program
from iebn_zoo.hub.formats.table import FORMATS, missing_packages
from iebn_zoo.hub.formats.torchscript_file import run_torchscript, write_torchscript
from iebn_zoo.util.errors import IEBNZooError
from tests.support.hub.formats import Writing, rewritten

pytestmark = pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::DeprecationWarning')
INPUTS = torch.ones(2, 3)


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """The file of a small network in an empty current directory, and the network."""
    monkeypatch.chdir(tmp_path)
    model, path = torch.nn.Linear(3, 2).eval(), tmp_path / 'model.torchscript.pt'
    write_torchscript(path, model, INPUTS, {'label_names': '["__setstate__", "model.json"]'})
    return path, model


def refused(path, model, *words):
    before = sorted(os.listdir())
    with pytest.raises(IEBNZooError) as e:
        run_torchscript(path, [INPUTS], model)
    assert str(path) in str(e.value) and len(str(e.value).splitlines()) <= 3
    assert all(word in str(e.value) for word in words), str(e.value)
    assert sorted(os.listdir()) == before


def test_an_export_is_run(trace):
    path, model = trace
    (logits,) = run_torchscript(path, [INPUTS], model)
    torch.testing.assert_close(logits, model(INPUTS))


FILE = 'torch.from_file("written", True, 3)'  # True: a file that is absent is made
SAVE = 'torch.save(torch.ones([2]), "written")'


@pytest.mark.parametrize('old, new', [
    ('  training : bool\n', f'  training : bool\n  y : Final[Tensor] = {FILE}\n'),
    ('  training : bool\n', f'  training : bool\n  y : Final[int] = len([{SAVE}])\n'),
    ('  training : bool\n', f'  training : bool\n  y : Final[\n    Tensor] = {FILE}\n'),
    ('  training : bool\n', f'  training : bool\n  y : Final[int] = (\n    len([{SAVE}]))\n'),
    ('Tensor) ->', f'Tensor, y: Tensor={FILE}) ->'),
    ('Tensor) ->', f'Tensor,\n    y: int=len([{SAVE}])) ->'),
    ('    bias = ', f'    def f(x: Tensor={FILE}) -> Tensor:\n      return x\n    bias = '),
    ('class Linear(Module):\n', f'class L(NamedTuple):\n  y : Tensor = {FILE}\nclass Linear(Module):\n'),
    ('class Linear(Module):\n', 'class Linear(Module):  # a comment\n'),
    ('  training : bool\n', '  training : bool\n\ty : Final[int] = 3\n'),
    ('    bias = ', '    """\n    bias = '),
], ids=['constant', 'constant that is counted', 'type over two lines', 'constant over two lines', 'default',
        'default that is counted', 'function in a function', 'named tuple', 'comment', 'tab', 'long text'])
def test_code_that_torch_runs_while_it_loads(trace, old, new):
    path, model = trace
    rewritten(path, lambda name, content: content.replace(old.encode(), new.encode()) if '.py' in name else content)
    refused(path, model, 'holds the line', 'was not run')


def test_literals_are_no_code_that_runs(trace):
    path, model = trace
    more = ('  training : bool\n  y : Final[Tuple[int, int]] = (1, -1)\n  z : Final[str] = "zeros"\n'
            '  e : Final[float] = 1.0000000000000001e-05\n  f : Final[List[int]] = []\n')
    rewritten(path, lambda name, content: content.replace(b'  training : bool\n', more.encode())
              if '.py' in name else content)
    assert len(run_torchscript(path, [INPUTS], model)) == 1


@pytest.mark.parametrize('name, content, words', [
    ('model.json', b'{}', ('model.json',)), ('MODEL.JSON', b'{}', ('model.json',)),
    ('code/__torch__/more.PY', b'class A(Module):\n  def __setstate__(self: A) -> int:\n    return 3\n',
     ('__setstate__',)),
    ('more.pkl', b'c__torch__.torch\nclasses\n', ('classes',)),
    ('code/__torch__/more.py', b'class A(Module):\n  y : __torch__.torch . classes.A\n', ('classes',)),
    ('code/__torch__/more.py', 'class Ä(Module):\n'.encode(), ('line',)),
    ('DATA.pkl', b'', ('not an archive',)),
])
def test_an_entry_that_an_export_does_not_write(trace, name, content, words):
    path, model = trace
    with zipfile.ZipFile(path, 'a') as archive:
        root = archive.namelist()[0].partition('/')[0]
        archive.writestr(f'{root}/{name}', content)
    refused(path, model, *words)


def parts(path):
    """The entries, the directory and the number of entries of an archive."""
    content = path.read_bytes()
    count, size, offset = struct.unpack('<HII', content[-12:-2])
    return content[:offset], content[offset:offset + size], count


def moved(directory, distance):
    out, position = bytearray(directory), 0
    while position < len(out):
        lengths = struct.unpack('<HHH', out[position + 28:position + 34])
        offset, = struct.unpack('<I', out[position + 42:position + 46])
        out[position + 42:position + 46] = struct.pack('<I', offset + distance)
        position += 46 + sum(lengths)
    return bytes(out)


def with_two_directories(harmless, other):
    """An archive whose last record leads to one directory, and whose locator leads to another."""
    (entries, directory, count), (more, second, n) = parts(harmless), parts(other)
    second, content = moved(second, len(entries)), entries + more

    def with_record(directory, count):
        record = struct.pack('<4sQHHIIQQQQ', b'PK\6\6', 44, 45, 45, 0, 0, count, count, len(directory), len(content))
        return content + directory + record

    content = with_record(second, n)
    there = len(content) - 56
    first, content = len(content), with_record(directory, count)
    content += struct.pack('<4sIQI', b'PK\6\7', 0, there, 1)
    return content + struct.pack('<4s4H2IH', b'PK\5\6', 0, 0, count, count, len(directory), first, 0)


def test_an_archive_with_two_directories(trace, tmp_path, monkeypatch):
    """Python reads one of them and torch the other, whose program writes a file while it is loaded."""
    path, model = trace
    other = tmp_path / 'other'
    torch.jit.save(torch.jit.script(Writing()), str(other))
    rewritten(other, lambda name, content: content)
    path.write_bytes(with_two_directories(path, other))
    refused(path, model, 'not an archive')
    # without that check, torch is still given nothing but what was read
    monkeypatch.setattr(torchscript_program, '_check_one_directory', lambda file, entries: None)
    try:
        (logits,) = run_torchscript(path, [INPUTS], model)
        torch.testing.assert_close(logits, model(INPUTS))
    except IEBNZooError as e:  # a Python that reads the other directory
        assert '__setstate__' in str(e) or '__getstate__' in str(e)
    assert not os.path.exists('written')


@pytest.mark.parametrize('damage', [
    lambda content: content[:-2] + b'\x03\0abc',  # a comment
    lambda content: content[:-22] + b'\0' + content[-22:],  # a gap after the directory
    lambda content: content[:-18] + b'\x01\0' + content[-16:],  # another disk
    lambda content: content[:-12] + b'\x01\0' + content[-10:],  # another number of entries
    lambda content: content + b'\0',
], ids=['comment', 'gap', 'disk', 'number', 'longer'])
def test_a_last_record_that_an_export_does_not_write(trace, damage):
    path, model = trace
    path.write_bytes(damage(path.read_bytes()))
    refused(path, model, 'not an archive')


def test_weights_that_are_too_large_for_one_directory(trace, monkeypatch):
    path, model = trace
    path.unlink()
    monkeypatch.setattr(torchscript_file, '_LIMIT', 10)
    with pytest.raises(IEBNZooError, match='Leave torchscript out of --formats'):
        write_torchscript(path, model, INPUTS, {})
    assert not os.listdir()


def onnx_with_a_tensor_elsewhere(place):
    onnx = pytest.importorskip('onnx', reason="needs the extra 'onnx': pip install iebn-zoo[onnx]")
    tensor = onnx.TensorProto(name='W', data_type=1, dims=[3, 2], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key='location', value=place)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([onnx.helper.make_node('MatMul', ['pixel_values', 'W'], ['logits'])], 'g',
                                   [value('pixel_values', 1, ['b', 3])], [value('logits', 1, ['b', 2])], [tensor])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 13)], ir_version=8)


NOT_A_GRAPH = {
    'document type': b'<?xml version="1.0"?>\n<!DOCTYPE net [<!ENTITY a "b">]>\n<net name="&a;"/>',
    'document type inside': b'<net><!DOCTYPE net></net>',
    'other root': b'<?xml version="1.0"?>\n<net-x/>', 'other root 2': b'<graph/>', 'empty': b'',
    'two roots': b'<net/><net/>', 'cut': b'<?xml version="1.0"?>\n<net><layers>',
    'other encoding': '<?xml version="1.0" encoding="utf-16"?><net/>'.encode('utf-16'),
    'said encoding': b'<?xml version="1.0" encoding="latin-1"?><net/>', 'no text': b'<net name="\xff"/>'}


@pytest.mark.parametrize('kind', ['onnx', *NOT_A_GRAPH])
def test_a_graph_of_openvino_is_xml_with_its_root(kind, tmp_path):
    if reason := missing_packages(FORMATS['openvino']):
        pytest.skip(reason)
    from iebn_zoo.hub.formats.openvino_files import run_openvino
    (tmp_path / 'elsewhere').write_bytes(struct.pack('<6f', *range(6)))
    content = NOT_A_GRAPH[kind] if kind in NOT_A_GRAPH else (
        onnx_with_a_tensor_elsewhere('elsewhere').SerializeToString())
    (tmp_path / 'openvino_model.xml').write_bytes(content)
    (tmp_path / 'openvino_model.bin').write_bytes(b'')
    with pytest.raises(IEBNZooError, match='not a graph of OpenVINO .* was not run') as e:
        run_openvino(tmp_path / 'openvino_model.xml', [INPUTS])
    assert len(str(e.value).splitlines()) <= 3
