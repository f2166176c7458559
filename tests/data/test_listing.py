"""What is an image, what is its class, in which order: the same for folders and tars."""
import io
import os
import random
import subprocess
import sys
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.utils.misc import natural_key as timms_key

from iebn_zoo.data.folder import FolderSource
from iebn_zoo.data.listing import Member, make_listing, natural_key
from iebn_zoo.data.tar import TarSource
from iebn_zoo.util.errors import IEBNZooError, UsageError


def pixel(value=0):
    file = io.BytesIO()
    Image.new('L', (1, 1), value).save(file, 'png')
    return file.getvalue()


def write_as_folder(root, files):
    for name, content in files.items():
        path = root / 'split' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return FolderSource(root / 'split')


def write_as_tar(root, files, prefix=''):
    with tarfile.open(root / 'split.tar', 'w') as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f'{prefix}{name}')
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return TarSource(root / 'split.tar')


WRITERS = [write_as_folder, write_as_tar]
both = pytest.mark.parametrize('write', WRITERS, ids=['folder', 'tar'])


def labels(source):
    return {image.path: image.label for image in source.listing.images}


@both
def test_a_class_is_the_first_folder_however_deep_its_images_lie(tmp_path, write):
    source = write(tmp_path, {'cat/big/1.png': pixel(), 'cat/2.png': pixel(), 'dog/big/x/y/1.png': pixel()})
    assert source.listing.class_names == ('cat', 'dog')
    assert labels(source) == {'cat/2.png': 'cat', 'cat/big/1.png': 'cat', 'dog/big/x/y/1.png': 'dog'}


@both
def test_hidden_files_and_folders_are_left_out_anywhere(tmp_path, write):
    source = write(tmp_path, {
        'ant/1.png': pixel(), 'bee/1.png': pixel(), '.ipynb_checkpoints/1.png': pixel(), '.hidden.png': pixel(),
        'ant/.ipynb_checkpoints/1-checkpoint.png': pixel(), 'ant/._1.png': pixel(), '__MACOSX/ant/1.png': pixel()})
    assert list(labels(source)) == ['ant/1.png', 'bee/1.png'] and source.listing.left_out is None


@both
def test_images_outside_class_folders_are_named(tmp_path, write):
    files = {'ant/1.png': pixel(), **{f'{i}.png': pixel() for i in range(5)}}
    with pytest.raises(UsageError, match=r'5 images in .*split.* lie outside any class folder: 0.png, 1.png, 2.png '
                                         r'and 2 more.\n'):
        write(tmp_path, files)


@both
def test_what_is_passed_over_is_counted_by_kind(tmp_path, write):
    source = write(tmp_path, {
        'ant/1.PNG': pixel(), 'ant/a.txt': b'', 'ant/b.TXT': b'', 'readme': b'', 'bee/1.png': b''})
    assert source.listing.left_out.endswith('skipped 3 files of other kinds (2 .txt, 1 no suffix)')
    assert len(source.listing.images) == 2


@both
def test_no_images(tmp_path, write):
    with pytest.raises(UsageError, match='no images in .*split.* but 1 file of another kind'):
        write(tmp_path, {'ant/a.txt': b''})


@both
def test_names_that_look_the_same_are_two_classes_that_nobody_wants(tmp_path, write):
    with pytest.raises(UsageError, match='the same text in two Unicode forms'):
        write(tmp_path, {'caf\u00e9/1.png': pixel(), 'cafe\u0301/1.png': pixel()})


def test_a_name_that_is_no_text_is_a_message(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b'split', b'ant\xff')
    os.makedirs(folder)
    with open(os.path.join(folder, b'1.png'), 'wb') as file:
        file.write(pixel())
    with pytest.raises(UsageError, match=r'the class folder ant\\xff .* is not UTF-8') as e:
        FolderSource(tmp_path / 'split')
    str(e.value).encode('utf-8')


def test_a_link_to_a_folder_around_it_is_an_error_and_one_to_elsewhere_is_not(tmp_path):
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    (elsewhere / '1.png').write_bytes(pixel())
    root = tmp_path / 'split'
    (root / 'ant').mkdir(parents=True)
    (root / 'ant' / '1.png').write_bytes(pixel())
    (root / 'bee').symlink_to(elsewhere)
    assert labels(FolderSource(root)) == {'ant/1.png': 'ant', 'bee/1.png': 'bee'}
    (root / 'ant' / 'again').symlink_to(root)
    with pytest.raises(UsageError, match=r'ant/again is a link to a folder around it'):
        FolderSource(root)


@pytest.mark.parametrize('name', ['cat', 'ant/2.png', 'ant/more'])
@pytest.mark.parametrize('target, said', [('nothing', 'No such file'), ('.', 'Too many levels')])
def test_a_link_that_leads_nowhere_is_named(tmp_path, name, target, said):
    link = tmp_path / 'split' / name
    link.parent.mkdir(parents=True)
    link.symlink_to(link if target == '.' else tmp_path / target)
    with pytest.raises(UsageError, match=f'{name} cannot be followed: {said}.*\nMend the link'):
        write_as_folder(tmp_path, {'ant/1.png': pixel(), 'bee/1.png': pixel()})


def test_links_of_other_names_may_lead_nowhere_and_a_pipe_is_no_image(tmp_path):
    write_as_folder(tmp_path, {'ant/1.png': pixel(), 'bee/1.png': pixel()})
    for name in ('.link', 'notes.txt'):
        (tmp_path / 'split' / name).symlink_to(tmp_path / 'nothing')
    listing = FolderSource(tmp_path / 'split').listing
    assert len(listing.images) == 2 and listing.left_out.endswith('(1 .txt)')
    (tmp_path / 'split' / 'v1.0').symlink_to(tmp_path / 'nothing')  # maybe a folder
    with pytest.raises(UsageError, match='v1.0 cannot be followed'):
        FolderSource(tmp_path / 'split')
    (tmp_path / 'split' / 'v1.0').unlink()
    os.mkfifo(tmp_path / 'split' / 'ant' / '2.png')
    with pytest.raises(UsageError, match='ant/2.png is neither a file nor a folder'):
        FolderSource(tmp_path / 'split')


def tar_with(root, *entries):
    """Write a tar of (name, type, what it leads to or holds)."""
    with tarfile.open(root / 'split.tar', 'w') as tar:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                tar.addfile(info)
    return TarSource(root / 'split.tar')


FILE, HARD, SYMBOLIC, FOLDER, PIPE, DUMP, LABEL = (
    tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, b'D', b'V')


def test_links_in_a_tar_are_the_files_that_they_lead_to(tmp_path):
    source = tar_with(
        tmp_path, ('.', FOLDER, ''), ('./split', FOLDER, ''), ('split/ant', DUMP, ''), ('a label', LABEL, ''),
        ('split/ant/notes.txt', SYMBOLIC, '/home/x/notes.txt'), ('split/bee/2.png', SYMBOLIC, '3.png'),
        ('split/bee/3.png', SYMBOLIC, '../ant/1.png'), ('split/ant/1.png', FILE, pixel(3)),
        ('split/bee/1.png', HARD, 'split/ant/1.png'),
        ('split/bee/1.png', HARD, './split/bee/1.png'), ('split/ant/.x', SYMBOLIC, 'nowhere'), ('._split', FILE, b''))
    assert list(labels(source)) == ['ant/1.png', 'bee/1.png', 'bee/2.png', 'bee/3.png']
    assert [Image.open(source.open(i)).getpixel((0, 0)) for i in range(4)] == [3] * 4
    assert source.listing.left_out.endswith('skipped 1 file of another kind (1 .txt)')


@pytest.mark.parametrize('entry, said', [
    (('bee/2.png', SYMBOLIC, '/etc/passwd'), 'bee/2.png in split.tar is a link to /etc/passwd, and'),
    (('bee/2.png', HARD, 'ant/9.png'), 'bee/2.png in split.tar is a link to ant/9.png, and'),
    (('bee/2.png', SYMBOLIC, '2.png'), 'bee/2.png in split.tar is a link to 2.png, and'),
    (('cat', SYMBOLIC, 'ant'), 'cat in split.tar is a link to ant, and'),
    (('bee/2.png', PIPE, ''), 'bee/2.png in split.tar is neither a file nor a folder'),
    (('cat', FOLDER, ''), 'class folder .*cat has no images')])
def test_what_a_tar_holds_of_no_use_is_named(tmp_path, entry, said):
    with pytest.raises(UsageError, match=said):
        tar_with(tmp_path, ('ant/1.png', FILE, pixel()), ('bee/1.png', FILE, pixel()), entry)


def test_a_sparse_file_in_a_tar_is_named(tmp_path):
    for name in ('ant', 'bee'):
        (tmp_path / name).mkdir()
        with open(tmp_path / name / '1.png', 'wb') as file:
            file.truncate(10 ** 6)
            file.write(pixel())
    command = ['tar', '--sparse', '--hole-detection=raw', '-cf', 'split.tar', 'ant', 'bee']
    (tmp_path / 'ant' / '1.png').rename(tmp_path / 'ant' / 'notes.bin')
    (tmp_path / 'bee' / '1.png').rename(tmp_path / 'bee' / '.1.png')
    for name in ('ant', 'bee'):
        (tmp_path / name / '2.png').write_bytes(pixel())
    subprocess.run(command, cwd=tmp_path, check=True)  # sparse files that are never read are no obstacle
    assert list(labels(TarSource(tmp_path / 'split.tar'))) == ['ant/2.png', 'bee/2.png']
    (tmp_path / 'ant' / 'notes.bin').rename(tmp_path / 'ant' / '1.png')
    subprocess.run(command, cwd=tmp_path, check=True)
    with pytest.raises(UsageError, match='ant/1.png in split.tar is a sparse file'):
        TarSource(tmp_path / 'split.tar')


def test_the_last_file_of_a_name_is_valid_in_a_tar(tmp_path):
    source = tar_with(tmp_path, *((f'{name}/1.png', FILE, pixel(value)) for value in (3, 5) for name in ('ant', 'bee')))
    assert [Image.open(source.open(i)).getpixel((0, 0)) for i in range(2)] == [5, 5]


def test_an_empty_class_folder_is_named(tmp_path):
    (tmp_path / 'split' / 'cat').mkdir(parents=True)
    (tmp_path / 'split' / '.git').mkdir()
    with pytest.raises(UsageError, match='class folder .*cat has no images'):
        write_as_folder(tmp_path, {'ant/1.png': pixel(), 'bee/1.png': pixel()})


@pytest.mark.parametrize('prefix', ['./', 'split/', './split/'])
def test_a_tar_may_begin_with_a_dot_or_its_own_name(tmp_path, prefix):
    source = write_as_tar(tmp_path, {'ant/1.png': pixel(3), 'bee/1.png': pixel(5)}, prefix)
    assert source.listing.class_names == ('ant', 'bee')
    assert [Image.open(source.open(i)).getpixel((0, 0)) for i in range(2)] == [3, 5]


def test_a_tar_of_a_tar_per_class(tmp_path):
    inner = {}
    for name, value in (('bee', 7), ('ant', 9)):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode='w') as tar:
            for i in range(3):
                info = tarfile.TarInfo(f'{i}.png')
                info.size = len(pixel(value + i))
                tar.addfile(info, io.BytesIO(pixel(value + i)))
        inner[f'{name}.tar'] = file.getvalue()
    source = write_as_tar(tmp_path, inner)
    assert list(labels(source).items()) == [(f'{name}/{i}.png', name) for name in ('ant', 'bee') for i in range(3)]
    assert [Image.open(source.open(i)).getpixel((0, 0)) for i in range(6)] == [9, 10, 11, 7, 8, 9]


def test_an_image_that_a_folder_and_a_tar_of_one_class_hold_is_named(tmp_path):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode='w') as tar:
        info = tarfile.TarInfo('1.png')
        info.size = len(pixel())
        tar.addfile(info, io.BytesIO(pixel()))
    with pytest.raises(UsageError, match='bee/1.png is there twice: in split.tar/bee.tar and beside it'):
        write_as_tar(tmp_path, {'ant/1.png': pixel(), 'bee/1.png': pixel(), 'bee.tar': inner.getvalue()})


def test_compressed_and_broken_tars_are_messages(tmp_path):
    with tarfile.open(tmp_path / 'a.tar', 'w:gz') as tar:
        tar.addfile(tarfile.TarInfo('ant/1.png'))
    with pytest.raises(UsageError, match=r'\(it is compressed\).*\nUnpack it'):
        TarSource(tmp_path / 'a.tar')
    (tmp_path / 'b.tar').write_bytes(b'x' * 2000)
    with pytest.raises(UsageError, match='b.tar cannot be read as a tar: '):
        TarSource(tmp_path / 'b.tar')


def test_a_tar_that_has_become_shorter_is_an_error(tmp_path):
    source = write_as_tar(tmp_path, {'ant/1.png': pixel(), 'bee/1.png': pixel()})
    os.truncate(tmp_path / 'split.tar', 600)
    with pytest.raises(OSError, match='ends within'):
        source.open(1)


NAMES = st.lists(st.text('aAbB019_²é', min_size=1, max_size=6), min_size=2, max_size=8, unique=True)


@given(NAMES, st.randoms(use_true_random=False))
def test_the_order_is_total(names, shuffler):
    shuffled = list(names)
    shuffler.shuffle(shuffled)
    assert sorted(names, key=natural_key) == sorted(shuffled, key=natural_key)


@given(NAMES)
def test_the_order_is_timms_where_that_has_one(names):
    names = [name for name in names if '²' not in name]  # of which timm's key makes an error
    ours = sorted(names, key=natural_key)
    assert [timms_key(name) for name in ours] == sorted(map(timms_key, names))


TIES = ['a_1', 'a_01', 'a_001', 'B', 'b', 'É', 'é', '²']


def test_ties_have_one_order_in_every_process_under_every_hash_seed(tmp_path):
    for name in TIES:
        (tmp_path / 'split' / name).mkdir(parents=True)
        for image in ('x1.png', 'X1.png', 'x01.png'):
            (tmp_path / 'split' / name / image).write_bytes(pixel())
    code = ('import sys; from pathlib import Path; from iebn_zoo.data.folder import FolderSource; '
            'l = FolderSource(Path(sys.argv[1])).listing; print(l.class_names, [i.path for i in l.images], l.digest())')
    seen = {subprocess.run([sys.executable, '-c', code, str(tmp_path / 'split')], capture_output=True, text=True,
                           check=True, env=dict(os.environ, PYTHONHASHSEED=seed)).stdout for seed in ('0', '1')}
    members = [Member(f'{name}/{image}', 1, None) for name in TIES for image in ('x1.png', 'X1.png', 'x01.png')]
    listings = set()
    for seed in range(5):
        random.Random(seed).shuffle(members)
        listing = make_listing(members, 'split')
        listings.add((listing.class_names, tuple(i.path for i in listing.images)))
    assert len(seen) == len(listings) == 1
    assert next(iter(seen)).startswith(str(next(iter(listings))[0]))


def test_a_folder_that_cannot_be_listed_is_a_message(tmp_path):
    with pytest.raises(IEBNZooError, match='cannot read the folder .*nothing: No such file'):
        FolderSource(tmp_path / 'nothing')
