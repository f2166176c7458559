"""The files for other runtimes from export to Hub: one export with all three, pushed, verified, damaged, replaced."""
import os
import re
import shutil
import sys

import pytest
import safetensors.torch
import torch
from PIL import Image

import iebn_zoo
from iebn_zoo.cli import main
from iebn_zoo.hub.formats.table import FORMATS, chosen_formats, import_package, missing_packages
from iebn_zoo.hub.package.check import check_directory
from iebn_zoo.hub.package.export import export
from iebn_zoo.hub.package.runtimes import write_formats
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.resources import install_command, install_line
from tests.support.hub.converting import KWARGS, bn_network, saved
from tests.support.hub.exported import card_data, edit_golden, make_export
from tests.support.hub.formats import Other, rewritten, small_network
from tests.support.hub.runs import NASTY, make_run

absent = [reason for reason in map(missing_packages, FORMATS.values()) if reason]
if absent:
    pytest.skip(absent[0], allow_module_level=True)
pytestmark = [pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::DeprecationWarning'),
              pytest.mark.usefixtures('warm_python')]
WRITTEN = {'model.onnx', 'model.torchscript.pt', 'openvino_model.xml', 'openvino_model.bin'}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp('run') / 'run', ema=False, labels=['ant', *NASTY])


@pytest.fixture(scope='module')
def _exported(run, tmp_path_factory):
    output = tmp_path_factory.mktemp('export') / 'model'
    assert main(['export', str(run), '--output', str(output), '--formats', *FORMATS]) == 0  # reloads in a fresh process
    return output


@pytest.fixture
def exported(_exported, tmp_path):
    """An export of one's own, to damage."""
    return shutil.copytree(_exported, tmp_path / 'model')


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr('iebn_zoo.hub.package.export.reload_fresh', lambda made: check_directory(made).difference)


def test_the_files_stand_beside_the_others_and_change_none(_exported, run, tmp_path, in_process):
    names = set(os.listdir(_exported))
    assert names > WRITTEN and len({(_exported / name).stat().st_mode for name in names}) == 1
    without, _ = export(run, tmp_path / 'out')
    assert names - WRITTEN == set(os.listdir(without))
    for name in ('model.safetensors', 'config.json', 'summary.csv'):
        assert (without / name).read_bytes() == (_exported / name).read_bytes()
    tensors = [safetensors.torch.load_file(d / 'golden.safetensors') for d in (without, _exported)]
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])
    assert 'Other Runtimes' not in (without / 'README.md').read_text()


def test_the_card_says_how_to_run_them(_exported, tmp_path, monkeypatch):
    text = (_exported / 'README.md').read_text()
    assert card_data(text).library_name == 'timm'
    section = text[text.index('### Other Runtimes'):text.index('`golden.safetensors` holds')]
    rows = re.findall(r'^\| \[(\S+)\].* \| (\w+) [\d.+a-z]+ \| (\S+) of (\S+) \|$', section, flags=re.M)
    assert [row[:2] for row in rows] == [
        ('model.onnx', 'onnxruntime'), ('model.torchscript.pt', 'torch'), ('openvino_model.xml', 'openvino')]
    golden = safetensors.torch.load_file(_exported / 'golden.safetensors')
    for _, _, difference, largest in rows:
        assert 0 <= float(difference) <= 1e-5 * float(largest)
        assert float(largest) == pytest.approx(golden['logits'].abs().max().item(), rel=1e-2)
    # each snippet, after the one that classifies an image
    monkeypatch.chdir(_exported)
    Image.new('RGB', (50, 40), 'red').save(tmp_path / 'image.png')
    first = re.findall(r'```python\n(.*?)```', text, flags=re.S)[0]
    first = first.replace("'image.png'", repr(str(tmp_path / 'image.png')))
    names = {}
    exec(first.replace('hf-hub:OWNER/NAME', f'local-dir:{_exported}'), names)
    pixels, snippets = names['transform'](names['image'])[None], re.findall(r'```python\n(.*?)```', section, flags=re.S)
    assert len(snippets) == 3
    import_package('openvino')  # as this package imports it
    for snippet in snippets:
        result = {'pixels': pixels}
        exec(snippet, result)
        torch.testing.assert_close(torch.as_tensor(result['logits']), names['logits'][None], atol=1e-4, rtol=1e-4)


def test_verify_runs_each_file(_exported, tmp_path, capsys, monkeypatch):
    found = iebn_zoo.verify(_exported)
    assert set(found.formats) == WRITTEN - {'openvino_model.bin'} and not found.not_run and not found.others
    assert max(found.formats.values()) < 1e-3 and set(found.files) > WRITTEN
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)  # as if it were not installed
    assert main(['verify', str(_exported)]) == 0
    out = capsys.readouterr().out
    assert 'as exported  model.onnx' in out and 'openvino_model.xml: logits within' in out
    assert re.search(r'^note: model.onnx was not run, because onnxruntime .*' + re.escape(install_line('onnx')) + '$',
                     out, re.M)
    # and as if it were broken
    (tmp_path / 'openvino.py').write_text("raise TypeError('Descriptors cannot be created directly.')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'openvino')
    assert main(['verify', str(_exported)]) == 0
    assert re.search(r'^note: openvino_model.xml was not run, because openvino does not import \(TypeError: Descr',
                     capsys.readouterr().out, re.M)


def of_another_network(directory, name):
    model, network = small_network(classes=10)
    write_formats(directory, model, network, chosen_formats([name]))


def test_files_that_are_not_those_of_the_weights(exported):
    """As they are, and sealed anew by somebody who means it."""
    for name, format in FORMATS.items():
        of_another_network(exported, name)
        with pytest.raises(IEBNZooError, match=f'({"|".join(format.files)}) is not the file that was exported'):
            iebn_zoo.verify(exported)
        edit_golden(exported)
        with pytest.raises(IEBNZooError, match=f'{format.file} does not compute the golden .*they differ by') as e:
            iebn_zoo.verify(exported)
        assert 'is rounding' in str(e.value) and len(str(e.value).splitlines()) <= 3
        for file in format.files:
            (exported / file).unlink()
        edit_golden_without(exported, format.files)
        iebn_zoo.verify(exported)


def edit_golden_without(directory, names):
    import json

    def change(tensors, metadata):
        files = json.loads(metadata['files'])
        metadata['files'] = json.dumps({name: digest for name, digest in files.items() if name not in names})

    for name in names:  # edit_golden reads every file that is bound
        (directory / name).write_bytes(b'')
    edit_golden(directory, change)
    for name in names:
        (directory / name).unlink()


@pytest.mark.parametrize('name, content, said', [
    ('model.onnx', b'nothing', 'does not run in onnxruntime'), ('model.onnx', b'', 'model.onnx'),
    ('openvino_model.xml', b'<net/>', 'does not run in openvino'),
    ('openvino_model.xml', b'nothing', 'not a graph of OpenVINO'),
    ('openvino_model.bin', b'', 'does not run in openvino'),
    ('model.torchscript.pt', b'PK', 'not an archive of TorchScript')])
def test_a_damaged_file_is_named(exported, name, content, said):
    (exported / name).write_bytes(content)
    edit_golden(exported)
    with pytest.raises(IEBNZooError, match=said) as e:
        iebn_zoo.verify(exported)
    assert len(str(e.value).splitlines()) <= 3


def test_a_graph_without_its_weights(exported):
    edit_golden_without(exported, ['openvino_model.bin'])
    with pytest.raises(IEBNZooError, match='does not bind openvino_model.bin'):
        iebn_zoo.verify(exported)


def test_a_program_with_other_operators_is_not_run(exported):
    path = exported / 'model.torchscript.pt'
    torch.jit.save(torch.jit.script(Other()), str(path))
    rewritten(path, lambda name, content: content)
    edit_golden(exported)
    found = iebn_zoo.verify(exported)
    assert path.name not in found.formats and len(found.not_run) == 1 and 'aten::erfinv' in found.not_run[0]


def test_nothing_is_done_without_the_package(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'openvino', None)
    assert main(['export', str(run), '--output', str(tmp_path / 'out'), '--formats', 'onnx', 'openvino']) == 2
    captured = capsys.readouterr()
    assert install_command('openvino') in captured.err and 'loaded' not in captured.err
    assert not os.listdir(tmp_path)
    with pytest.raises(UsageError, match="unknown format 'coreml'"):
        export(run, tmp_path / 'out', formats=['coreml'])
    with pytest.raises(SystemExit):
        main(['export', str(run), '--output', str(tmp_path / 'out'), '--formats', 'tflite'])
    assert 'tflite' in capsys.readouterr().err


def test_a_format_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    for error in (RuntimeError('no such operator'), KeyboardInterrupt()):
        def failing(path, *args, _error=error):
            path.write_bytes(b'half')
            raise _error

        monkeypatch.setitem(sys.modules['iebn_zoo.hub.package.runtimes']._WRITERS, 'torchscript', failing)
        with pytest.raises(IEBNZooError if isinstance(error, RuntimeError) else KeyboardInterrupt):
            export(run, tmp_path / 'out', formats=['torchscript'])
        assert not os.listdir(tmp_path)


def test_overwrite_takes_the_old_formats_away(exported, run, in_process):
    export(run, exported, overwrite=True, formats=['torchscript'])
    assert WRITTEN & set(os.listdir(exported)) == {'model.torchscript.pt'}
    assert list(iebn_zoo.verify(exported).formats) == ['model.torchscript.pt']


def test_push_takes_them_in_the_one_commit_and_a_later_push_takes_them_away(hub, driver, _exported, tmp_path):
    outcome = driver.push(_exported, '--repo-id', 'me/x')
    assert outcome.code == 0, outcome
    assert set(hub.files('me/x')) >= WRITTEN and len(hub.commits('me/x')) == 2
    assert 'openvino_model.bin' in outcome.stdout
    outcome = driver.verify('me/x')
    assert outcome.code == 0 and 'model.onnx: logits within' in outcome.stdout, outcome
    assert 'not run' not in outcome.stdout
    # weights of another run: no file of the old ones may stay beside them
    outcome = driver.push(make_export(tmp_path / 'new', seed=1), '--repo-id', 'me/x')
    assert outcome.code == 0 and not set(hub.files('me/x')) & WRITTEN, outcome
    assert all(f'deleted  {name}' in outcome.stdout for name in WRITTEN)


def test_conversions_have_them_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('iebn_zoo.hub.convert.directory.reload_fresh', lambda made: check_directory(made).difference)
    file = saved(bn_network(), tmp_path / 'resnet18.pth')
    argv = ['--model', 'resnet18', '--checkpoint', file, '--img-size', 32, '--output', tmp_path / 'out', *KWARGS]
    assert main(['convert', *map(str, argv), '--formats', 'onnx']) == 0
    assert 'model.onnx' in capsys.readouterr().out and 'model.onnx' in (tmp_path / 'out' / 'README.md').read_text()
    assert list(iebn_zoo.verify(tmp_path / 'out').formats) == ['model.onnx']
