"""A network of 4 channels is converted, described and verified; what opens image files says that it cannot do so."""
import re

import pytest
import torch
from PIL import Image

from iebn_zoo.cli import main
from iebn_zoo.hub.package.check import check_directory
from iebn_zoo.hub.push.verify import verify
from iebn_zoo.prediction.predict import predict
from iebn_zoo.util.errors import UsageError
from tests.support.hub.converting import KWARGS, bn_network, convert, iebn_network, load, saved

pytestmark = pytest.mark.usefixtures('warm_python')

SAID = r'takes images of 4 channels, and image files are opened with 1 \(grey\) or 3 \(RGB\)'
FOUR = ['in_chans=4', '--img-size', 32, '--mean', .25, '--std', .5]


@pytest.fixture(scope='module')
def converted(tmp_path_factory):
    place = tmp_path_factory.mktemp('four')
    argv = ['--checkpoint', saved(bn_network(in_chans=4), place / 'net.pth'), '--model', 'resnet18', *KWARGS, *FOUR]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('iebn_zoo.hub.convert.directory.reload_fresh', lambda made: check_directory(made).difference)
        assert main(['convert', *map(str, argv), '--output', str(place / 'out')]) == 0
    return place / 'out'


def test_the_card_gives_code_for_a_tensor_and_that_runs(converted, capsys):
    text = (converted / 'README.md').read_text()
    assert not any(word in text for word in ('image.png', 'open_image', 'AutoImageProcessor', 'and an image'))
    assert 'mean `[0.25, 0.25, 0.25, 0.25]`, standard deviation `[0.5, 0.5, 0.5, 0.5]`' in text
    snippets = re.findall(r'```python\n(.*?)```', text, flags=re.S)
    assert len(snippets) == 3
    for snippet in snippets:
        exec(snippet.replace('hf-hub:OWNER/NAME', f'local-dir:{converted}'), {})
    out = capsys.readouterr().out
    assert 'torch.Size([1, 16])' in out and 'torch.Size([1, 8, 8, 8])' in out


def test_verify_does_not_say_that_an_image_was_checked(converted, capsys):
    assert not verify(converted).image
    assert main(['verify', str(converted)]) == 0
    out = capsys.readouterr().out
    assert 'the name it gives' not in out and 'note: golden.safetensors holds no image: ' in out
    with torch.no_grad():
        assert load(converted)(torch.zeros(1, 4, 32, 32)).shape == (1, 3)


def test_image_files_are_refused(converted, image_folder, tmp_path, capsys):
    Image.new('RGB', (32, 32), 'red').save(tmp_path / 'red.png')
    name = f'local-dir:{converted}'
    train = ['train', '--model', name, '--pretrained', '--data-dir', image_folder, '--output', tmp_path / 'run',
             '--epochs', 1, '-j', 0, '--device', 'cpu']
    for argv in (['predict', converted, tmp_path / 'red.png'], ['gates', converted, tmp_path / 'red.png'],
                 ['validate', '--model', name, '--data-dir', image_folder, '-j', 0, '--device', 'cpu'], train):
        assert main([*map(str, argv)]) == 2, argv
        err = capsys.readouterr().err
        assert re.search(SAID, err) and 'Traceback' not in err, err
    assert 'Give --in-chans 3' in err  # pyright: ignore[reportPossiblyUnboundVariable]
    with pytest.raises(UsageError, match=SAID):
        predict(load(converted), tmp_path / 'red.png')


def test_a_fold_needs_image_files(image_folder, tmp_path, capsys):
    net = saved(iebn_network(in_chans=4), tmp_path / 'net.pth')
    code, _, err = convert(capsys, '--checkpoint', net, '--model', 'iebn_resnet18', *KWARGS, *FOUR, '--fold',
                           '--data-dir', image_folder, '--output', tmp_path / 'out', '-j', 0, '--device', 'cpu')
    assert code == 2 and re.search(SAID, err), err
