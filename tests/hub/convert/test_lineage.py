"""The card of an IEBN network that was converted from a BatchNorm network says how its weights were trained."""
import json
import shutil

import pytest
from timm.models import save_for_hf

from iebn_zoo.hub.package.check import check_directory
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint, save_checkpoint
from tests.support.hub.converting import KWARGS, bn_network, convert, iebn_network, saved
from tests.support.hub.exported import bind_files
from tests.support.hub.runs import make_run

pytestmark = pytest.mark.usefixtures('warm_python')

BY_BN = '**Its weights were trained with BatchNorm, not with IEBN.**'
LAST_BY_BN = '**Its weights were last trained with BatchNorm, not with IEBN**'
UNKNOWN = '**How the weights of that network were trained is not known here.**'
RESNET18 = ['--model', 'resnet18', '--img-size', 32, *KWARGS]


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setattr('iebn_zoo.hub.convert.directory.reload_fresh', lambda made: check_directory(made).difference)


@pytest.fixture
def converted(tmp_path, capsys):
    """Convert, and return the directory and the text of its card."""
    def run(*argv):
        output = tmp_path / f'out{len(list(tmp_path.iterdir()))}'
        code, _, err = convert(capsys, *argv, '--output', output)
        assert code == 0, err
        return output, (output / 'README.md').read_text()
    return run


def test_a_folded_iebn_network_was_not_trained_with_batch_norm(converted, tmp_path, image_folder):
    net = saved(iebn_network(), tmp_path / 'net.pth')
    folded, _ = converted('--checkpoint', net, '--model', 'iebn_resnet18', '--img-size', 32, *KWARGS, '--fold', '-j', 0,
                          '-b', 8, '--device', 'cpu', '--data-dir', image_folder, '--calibration-images', 20)
    for source in (('--model', f'local-dir:{folded}'), ('--checkpoint', folded / 'model.safetensors')):
        output, text = converted(*source)
        assert 'folded from an IEBN network**, `iebn_resnet18`' in text and 'fine-tuned' not in text
        assert BY_BN not in text and 'no evidence' not in text
        report = json.loads((output / 'conversion.json').read_text())
        assert report['source_weights'] == dict(kind='fold', architecture='iebn_resnet18', tuned=False)
    report = json.loads((folded / 'fold_report.json').read_text())
    (folded / 'fold_report.json').write_text(json.dumps({**report, 'tuning': {'epochs': 1}}))
    text = converted('--model', f'local-dir:{folded}')[1]
    assert 'its mean over images, and the BatchNorm network was fine-tuned.' in text


def test_runs_with_batch_norm(converted, tmp_path):
    run = make_run(tmp_path / 'run', 'bn_resnet20_cifar', ema=False, size=16)
    content = load_checkpoint(run / LAST)
    for start, said in ((dict(scratch=True, license=None), BY_BN), (dict(scratch=False, license=None), LAST_BY_BN)):
        save_checkpoint(run / 'given.pth.tar', {**content, 'start': start})
        iebn, text = converted('--checkpoint', run / 'given.pth.tar')
        assert said in text and 'no evidence about IEBN' in text
        # there and back changes nothing of how they were trained
        bn, _ = converted('--model', f'local-dir:{iebn}', '--to-bn')
        assert said in converted('--model', f'local-dir:{bn}')[1]


def test_a_converted_iebn_network_and_an_export(converted, tmp_path):
    iebn, text = converted(*RESNET18, '--checkpoint', saved(bn_network(), tmp_path / 'bn.pth'))
    assert UNKNOWN in text and 'no evidence' not in text  # a file of weights does not tell
    bn, _ = converted('--model', f'local-dir:{iebn}', '--to-bn')
    assert 'converted from an IEBN network**, `iebn_resnet18`' in converted('--model', f'local-dir:{bn}')[1]
    (bn / 'conversion.json').unlink()
    bind_files(bn)  # as the export of a training run
    assert LAST_BY_BN in converted('--model', f'local-dir:{bn}')[1]


@pytest.mark.parametrize('report', [
    None, '', '[]', '[' * 100_000, '{"kind": "fold"}', json.dumps(dict(source_architecture='a b|<i>')),
    json.dumps(dict(source_architecture='iebn_resnet18', kind=[], source_weights=[]))])
def test_reports_that_tell_nothing(converted, tmp_path, report):
    save_for_hf(bn_network(), str(tmp_path / 'bn'), safe_serialization=True)
    for name in ('fold_report.json', 'conversion.json'):
        if report is not None:
            (tmp_path / 'bn' / name).write_text(report)
        if name == 'fold_report.json' and report and 'iebn_resnet18' in report:
            (tmp_path / 'bn' / name).unlink()
    (tmp_path / 'bn' / 'golden.safetensors').write_bytes(b'of another library')
    assert UNKNOWN in converted('--model', f'local-dir:{tmp_path / "bn"}', '--img-size', 32)[1]
    shutil.rmtree(tmp_path / 'bn')
