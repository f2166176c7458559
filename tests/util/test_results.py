"""Where results may be written, and what they may replace: the rule, and each command that follows it."""
import json
import os

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from iebn_zoo.cli import main
from iebn_zoo.hub.package.directory import check_output, new_directory
from iebn_zoo.plots.contact_sheet import KIND, write_contact_sheets
from iebn_zoo.studies.compare.overview import main as draw_overview
from iebn_zoo.training.confusion import Confusion, write_confusion
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.results import Kind, check_directory, check_file, check_new, table_kind
from tests.support.training.datasets import write_folder

TABLE = table_kind('a table of apples', ('apple', 'weight'))
LONG = 'x' * 300


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp('images') / 'a.png'
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)
    return str(path)


@pytest.fixture
def no_network(monkeypatch):
    """No command opens a network before it has looked at the place of its results."""
    def opened(*args, **kwargs):
        raise AssertionError('a network was opened')
    for name in ('commands.predict.open_source', 'commands.gates.open_source', 'training.validate.open_network',
                 'commands.hub.convert.open_source', 'hub.package.export._open', 'commands.plot.read_rows',
                 'commands.plot_noise.read_run', 'commands.models.catalog'):
        monkeypatch.setattr(f'iebn_zoo.{name}', opened)


@pytest.mark.parametrize('text, fits', [
    ('apple,weight\n1,2\n', True), ('apple,weight\r\n1,2\r\n', True), ('', True), ('apple\n', False), ('notes', False),
    ('apple,weight,my notes\n', False)])
def test_a_table_replaces_a_table_of_its_kind_alone(tmp_path, text, fits):
    path = tmp_path / 'a.csv'
    path.write_text(text, newline='')
    if fits:
        return check_file('--csv', path, TABLE)
    with pytest.raises(UsageError) as e:
        check_file('--csv', path, TABLE)
    assert str(e.value) == f'{path} is there, and is not a table of apples.\nMove it away, or give --csv another name.'
    with pytest.raises(UsageError, match='is not a table of apples'):
        check_directory('--save', tmp_path, {'b.csv': TABLE, 'a.csv': TABLE})
    check_directory('--save', tmp_path, {'b.csv': TABLE})


def test_places(tmp_path):
    (tmp_path / 'file').touch()
    for path in (tmp_path, '/dev/null', tmp_path / 'none' / 'a.csv', tmp_path / 'file' / 'a.csv'):
        with pytest.raises(UsageError):
            check_file('--csv', path, TABLE)
    for path in ('/proc/self/a.csv', tmp_path / LONG):  # nobody can make a file in /proc
        with pytest.raises(IEBNZooError, match='Give --csv a (writable place|shorter name)'):
            check_file('--csv', path, TABLE)
    for check in (lambda path: check_directory('--save', path, {'a.csv': TABLE}), lambda p: check_new('--save', p)):
        for path in (tmp_path / 'file' / 'a', '/proc/self/none/a', tmp_path / LONG):
            with pytest.raises(IEBNZooError):
                check(path)
        check(tmp_path / 'none' / 'deeper')
    os.symlink('nowhere', tmp_path / 'link')
    with pytest.raises(UsageError, match='is no directory'):
        check_directory('--save', tmp_path / 'link', {})
    assert sorted(os.listdir(tmp_path)) == ['file', 'link']


@pytest.mark.parametrize('flag, argv', [
    ('--csv', ('predict', 'NETWORK', 'IMAGE')), ('--json', ('predict', 'NETWORK', 'IMAGE')),
    ('--save', ('predict', 'NETWORK', 'IMAGE')), ('--output', ('gates', 'NETWORK', 'IMAGE')),
    ('--results-file', ('validate', '--model', 'NETWORK', '--data-dir', '.')),
    ('--confusion', ('validate', '--model', 'NETWORK', '--data-dir', '.')),
    ('--output', ('convert', '--model', 'NETWORK')), ('--output', ('export', 'NETWORK')),
    ('--output', ('plot', 'RUN')), ('--output', ('plot-noise', 'RUN')), ('--csv', ('models',))])
def test_each_command_looks_before_it_computes(tmp_path, image, no_network, capsys, flag, argv):
    argv = [image if word == 'IMAGE' else word for word in argv]
    (tmp_path / 'file').write_text('somebody wrote this')
    assert main([*argv, flag, str(tmp_path / 'file' / 'a.png')]) == 2
    err = capsys.readouterr().err
    assert str(tmp_path / 'file') in err and len(err.splitlines()) <= 3
    assert main([*argv, flag, '/proc/self/a.png' if flag != '--output' else '/proc/self/a/b.png']) in (1, 2)
    assert (tmp_path / 'file').read_text() == 'somebody wrote this'


@pytest.mark.parametrize('name', ['a.svg', 'a.pdf', 'a', 'png', 'a.png.gz'])
@pytest.mark.parametrize('command', ['plot', 'plot-noise'])
def test_a_picture_is_a_png_by_its_name_too(tmp_path, no_network, capsys, command, name):
    assert main([command, 'RUN', '--output', str(tmp_path / name)]) == 2
    assert f'--output is {tmp_path / name}, expected the name of a PNG file' in capsys.readouterr().err
    with pytest.raises(UsageError, match=f'{name}, expected the name of a PNG file'):
        draw_overview([str(tmp_path), str(tmp_path / name)])
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize('flag, name, argv', [
    ('--csv', 'FILE', ('predict', 'NETWORK', 'IMAGE')), ('--json', 'FILE', ('predict', 'NETWORK', 'IMAGE')),
    ('--save', 'contact_sheet_1.png', ('predict', 'NETWORK', 'IMAGE')),
    ('--output', 'gates.png', ('gates', 'NETWORK', 'IMAGE')), ('--output', 'gates.csv', ('gates', 'NETWORK', 'IMAGE')),
    ('--results-file', 'FILE', ('validate', '--model', 'NETWORK', '--data-dir', '.')),
    *(('--confusion', name, ('validate', '--model', 'NETWORK', '--data-dir', '.'))
      for name in ('confusion.csv', 'per_class.csv', 'confusion.png', 'worst_1.png')),
    ('--output', 'FILE.png', ('plot', 'RUN')), ('--output', 'FILE.png', ('plot-noise', 'RUN')),
    ('--csv', 'FILE', ('models',))])
def test_no_command_replaces_a_file_of_another_kind(tmp_path, image, no_network, capsys, flag, name, argv):
    path, argv = tmp_path / name, [image if word == 'IMAGE' else word for word in argv]
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path, 'PNG')
    before = path.read_bytes()
    assert main([*argv, flag, str(path if 'FILE' in name else tmp_path)]) == 2
    assert f'{path} is there, and is not ' in capsys.readouterr().err
    assert path.read_bytes() == before and os.listdir(tmp_path) == [name]


def test_each_command_replaces_its_own_results(tmp_path, image, capsys):
    source = 'iebn_resnet20_cifar.cifar100'
    for _ in range(2):
        assert main(['predict', source, image, '--csv', str(tmp_path / 'a'), '--json', str(tmp_path / 'b'), '--save',
                     str(tmp_path)]) == 0
        assert main(['gates', source, image, '--output', str(tmp_path)]) == 0
        assert main(['models', 'iebn_*20*', '--csv', str(tmp_path / 'c')]) == 0
    assert sorted(os.listdir(tmp_path)) == ['a', 'b', 'c', 'contact_sheet_1.png', 'gates.csv', 'gates.png']
    assert main(['predict', source, image, '--csv', str(tmp_path / 'b'), '--json', str(tmp_path / 'b')]) == 2
    assert 'of --csv and of --json' in capsys.readouterr().err
    assert main(['predict', source, image, '--csv', str(tmp_path / 'd'), '--save', str(tmp_path / 'd')]) == 2
    assert 'of --csv and of --save' in capsys.readouterr().err


def test_validate_replaces_its_own_results_and_nothing_like_them(tmp_path, capsys):
    data, out = write_folder(tmp_path / 'data', train=1, test=2), tmp_path / 'out'
    weights = tmp_path / 'weights.pth'
    torch.save(timm.create_model('iebn_resnet20_cifar', num_classes=3).state_dict(), weights)
    argv = ['validate', '--model', 'iebn_resnet20_cifar', '--num-classes', '3', '--checkpoint', str(weights),
            '--data-dir', str(data), '-j', '0', '--device', 'cpu', '--confusion', str(out), '--results-file',
            str(out / 'results.json')]
    for _ in range(2):
        assert main(argv) == 0, capsys.readouterr().err
    assert {'confusion.csv', 'results.json'} <= set(os.listdir(out))
    (out / 'results.json').write_text(json.dumps(dict(model='my config', lr=1), indent=2))
    assert main(argv) == 2
    assert 'results.json is there, and is not a results file of iebn-zoo validate' in capsys.readouterr().err


def test_a_sheet_of_other_weights_is_removed_and_no_other_picture(tmp_path):
    photo = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    photo.save(tmp_path / 'worst_case.png')
    confusion = Confusion(2)
    confusion.add(torch.eye(2), torch.tensor([1, 0]))
    write_confusion(confusion, tmp_path, None, 'title', lambda number: photo)
    assert KIND.wrote(tmp_path / 'worst_1.png')
    right = Confusion(2)
    right.add(torch.eye(2), torch.tensor([0, 1]))
    write_confusion(right, tmp_path, None, 'title', lambda number: photo)
    assert sorted(os.listdir(tmp_path)) == ['confusion.csv', 'confusion.png', 'per_class.csv', 'worst_case.png']
    write_contact_sheets(tmp_path, [lambda: (photo, ['a'])] * 49)
    assert Kind('a photo', b'\x89PNG', b'no such title').wrote(tmp_path / 'contact_sheet_2.png') is False


def test_what_was_computed_is_shown_where_the_disk_has_become_full(tmp_path, image, capsys, monkeypatch):
    def full(path, text):
        raise IEBNZooError(f'cannot write {path}: no space')
    monkeypatch.setattr('iebn_zoo.commands.predict.write_text', full)
    assert main(['predict', 'iebn_resnet20_cifar.cifar100', image, '--csv', str(tmp_path / 'a')]) == 1
    out, err = capsys.readouterr()
    assert ' % ' in out and 'no space' in err


def test_an_export_says_why_it_cannot_be_written(tmp_path):
    (tmp_path / 'notes').mkdir()
    with pytest.raises(UsageError, match='notes is no export of this package.*\n.*another --output'):
        check_output(tmp_path / 'notes', True)
    (tmp_path / 'file').touch()
    with pytest.raises(UsageError, match='file is no export of this package'):
        check_output(tmp_path / 'file', True)
    for name, advice in ((LONG, 'a shorter name'), ('good', 'a writable place')):
        with pytest.raises(IEBNZooError, match=f'Give --output {advice}'), new_directory(tmp_path / name) as made:
            (made / 'none' / 'a').touch()
    with pytest.raises(FileNotFoundError), new_directory(tmp_path / 'good'):
        (tmp_path.parent / 'no-such-source').read_text()  # a file of the run, and no fault of --output
    assert sorted(os.listdir(tmp_path)) == ['file', 'notes']


def test_a_link_to_an_export_stays_a_link(tmp_path):
    (tmp_path / 'real').mkdir()
    (tmp_path / 'real' / 'x').write_text('old')
    (tmp_path / 'link').symlink_to('real')
    with new_directory(tmp_path / 'link') as made:
        (made / 'README.md').write_text('new')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'real' / 'README.md').read_text() == 'new'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['link', 'real'] and not (tmp_path / 'real' / 'x').exists()
