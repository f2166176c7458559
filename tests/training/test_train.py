import csv
import json
import math
import shutil

import pytest
import timm
import torch
import yaml

import iebn_zoo  # noqa: F401
from iebn_zoo.commands.train import main as train
from iebn_zoo.commands.validate import main as validate
from iebn_zoo.layers.start import CIFAR_START
from iebn_zoo.training.run.checkpoint import BEST, LAST, load_checkpoint
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.training.datasets import flags, write_folder


@pytest.fixture(scope='module')
def finished(image_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp('runs') / 'run'
    more = ('--drop', '0.3', '--drop-path', '0.1', '--model-ema', '--model-ema-decay', '0.8', '--sched-on-updates')
    assert train(flags(image_folder, run, *more)) == 0
    return run, more


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_what_a_run_leaves(finished):
    run, _ = finished
    rows = list(csv.DictReader((run / 'summary.csv').read_text().splitlines()))
    assert [r['epoch'] for r in rows] == ['0', '1']
    assert set(rows[0]) >= {'train_loss', 'eval_loss', 'eval_top1', 'eval_top5', 'eval_ema_top1', 'lr'}
    times = list(csv.DictReader((run / 'timing.csv').read_text().splitlines()))
    assert [set(t) for t in times] == [{'epoch', 'seconds', 'images_per_second'}] * 2
    assert not set(rows[0]) & {'seconds', 'images_per_second'}  # a resumed run could not repeat them
    assert yaml.safe_load((run / 'args.yaml').read_text())['lr'] == 0.05
    environment = json.loads((run / 'environment.json').read_text())
    assert environment['torch'] == torch.__version__ and environment['seconds'] > 0
    assert (run / 'curves.png').read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'
    last = load_checkpoint(run / LAST)
    assert last['arch'] == 'iebn_resnet20_cifar' and last['model_args']['num_classes'] == 3
    assert last['model_args']['start'] == CIFAR_START  # also where the flags do not name it
    assert last['label_names'] == ['ant', 'bee', 'cat'] and last['num_eval_images'] == 21
    assert load_checkpoint(run / BEST)['epoch'] in (0, 1)


def test_the_start_by_flag_is_kept_and_a_frozen_gate_weight_is_not_trained(image_folder, tmp_path):
    kwargs = ['--model-kwargs', 'start=bn', 'freeze_gate_weight=True']
    train(flags(image_folder, tmp_path / 'run', *kwargs))
    last = load_checkpoint(tmp_path / 'run' / LAST)
    assert last['model_args'].items() >= {'start': 'bn', 'freeze_gate_weight': True}.items()
    gates = {key: value for key, value in last['state_dict'].items() if 'gate' in key}
    assert len(gates) > 20 and all(((value == 0) == key.endswith('gate_weight')).all() for key, value in gates.items())
    assert any((value != -1).any() for key, value in gates.items() if key.endswith('gate_bias'))
    with pytest.raises(UsageError, match='model_kwargs: .*start.* -> '):
        train(flags(image_folder, tmp_path / 'run', '--model-kwargs', 'start=paper', '--resume'))


def test_timm_reads_the_checkpoint(finished):
    model = timm.create_model('iebn_resnet20_cifar', num_classes=3, checkpoint_path=str(finished[0] / LAST))
    # timm's load_checkpoint takes the EMA weights where there are some
    assert same(model.state_dict(), load_checkpoint(finished[0] / LAST)['state_dict_ema'])


def test_resumed_run_equals_the_uninterrupted_one(finished, image_folder, tmp_path):
    run, more = finished
    half = tmp_path / 'half'
    half.mkdir()
    shutil.copy(run / 'checkpoint-0.pth.tar', half / LAST)
    train(flags(image_folder, half, *more, '--resume'))
    a, b = load_checkpoint(run / LAST), load_checkpoint(half / LAST)
    assert same(a['state_dict'], b['state_dict']) and same(a['state_dict_ema'], b['state_dict_ema'])
    assert a['rows'] == b['rows']


def test_another_run_is_not_overwritten(finished, image_folder):
    run, more = finished
    before = (run / LAST).read_bytes()
    with pytest.raises(UsageError, match='holds another run'):
        train(flags(image_folder, run))
    with pytest.raises(UsageError, match='contradict'):
        train(flags(image_folder, run, *more, '--resume', '--overwrite'))
    with pytest.raises(UsageError, match='model: iebn_resnet20_cifar -> bn_resnet20_cifar'):
        train(flags(image_folder, run, *more, '--resume', '--model', 'bn_resnet20_cifar'))
    with pytest.raises(UsageError, match='Resume it with the flags'):
        train(flags(image_folder, run, *more, '--resume', '--model', 'bn_resnet20_cifar', '--allow-recipe-change'))
    assert (run / LAST).read_bytes() == before


def test_validate_agrees_with_the_run_to_the_last_image(finished, image_folder, image_tars, tmp_path, capsys):
    run, _ = finished
    last = load_checkpoint(run / LAST)
    for data, extra in ((image_folder, []), (image_tars, ['-b', '5', '-j', '0'])):
        out = tmp_path / 'results.json'
        validate(['--checkpoint', str(run / LAST), '--data-dir', str(data), '--results-file', str(out), *extra])
        results = json.loads(out.read_text())
        assert results == json.loads(capsys.readouterr().out)
        assert results['top1'] == pytest.approx(last['rows'][-1]['eval_top1']) and results['count'] == 21
    validate(['--checkpoint', str(run / LAST), '--use-ema', '--data-dir', str(image_folder)])
    assert json.loads(capsys.readouterr().out)['top1'] == pytest.approx(last['rows'][-1]['eval_ema_top1'])


@pytest.mark.parametrize('name', ['torch/image_folder', 'torch/folder', 'torch/Folder'])
def test_timms_names_of_a_folder_mean_a_folder(finished, image_folder, tmp_path, capsys, name):
    run, _ = finished
    some = shutil.copytree(image_folder / 'test', tmp_path / 'some' / 'test').parent
    shutil.rmtree(some / 'test' / 'ant')  # the other classes keep their numbers
    found = []
    for dataset in ([], ['--dataset', name]):
        validate(['--checkpoint', str(run / LAST), '--data-dir', str(some), '-j', '0', *dataset])
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1] and found[0]['count'] == 14 and found[0]['top1'] > 0
    (some / 'test' / 'bee').rename(some / 'test' / 'fox')
    with pytest.raises(UsageError, match="has a class 'fox' that is not among the 3 known ones"):
        validate(['--checkpoint', str(run / LAST), '--data-dir', str(some), '-j', '0', '--dataset', name])


@pytest.mark.parametrize('more', [
    ('--amp', '--channels-last', '--smoothing', '0.1', '--clip-grad', '1'),
    ('--mixup', '0.2', '--cutmix', '1', '--reprob', '0.3', '--aa', 'rand-m5', '--weight-decay-all'),
    # few pixels: a CPU without float16 arithmetic convolves them slowly
    ('--amp', '--amp-dtype', 'float16', '--deterministic', '--grad-accum-steps', '2', '--model-ema', '--img-size', '8'),
    ('--torchcompile', 'eager', '--in-chans', '1', '--sched', 'multistep', '--decay-milestones', '1'),
    ('--sched', 'step', '--decay-epochs', '1', '--opt', 'adamw', '--grad-checkpointing', '--gp', 'max'),
])
def test_options(image_folder, tmp_path, more):
    train(flags(image_folder, tmp_path / 'run', '--epochs', '2', *more))
    rows = load_checkpoint(tmp_path / 'run' / LAST)['rows']
    assert len(rows) == 2 and all(math.isfinite(r['train_loss']) for r in rows)
    if '--sched' in more:
        assert rows[1]['lr'] == pytest.approx(0.005)


def test_training_learns(image_folder, tmp_path):
    train(flags(image_folder, tmp_path / 'run', '--epochs', '6', '--no-aug'))
    rows = load_checkpoint(tmp_path / 'run' / LAST)['rows']
    assert rows[-1]['eval_top1'] >= 90  # the classes differ by colour


def test_fine_tuning_from_a_checkpoint(finished, image_folder, tmp_path):
    train(flags(image_folder, tmp_path / 'run', '--initial-checkpoint', str(finished[0] / LAST), '--lr', '0'))
    a, b = (load_checkpoint(p / LAST)['state_dict'] for p in (finished[0], tmp_path / 'run'))
    assert torch.equal(a['fc.weight'], b['fc.weight']) and torch.equal(a['bn1.gate_bias'], b['bn1.gate_bias'])


def test_fine_tuning_on_other_classes_gets_a_new_head(finished, tmp_path):
    data = write_folder(tmp_path / 'two', classes=('x', 'y'))
    train(flags(data, tmp_path / 'run', '--initial-checkpoint', str(finished[0] / LAST), '--lr', '0', '--epochs', '1'))
    a, b = (load_checkpoint(p / LAST)['state_dict'] for p in (finished[0], tmp_path / 'run'))
    assert b['fc.weight'].shape == (2, 64) and torch.equal(a['conv1.weight'], b['conv1.weight'])


def test_nan_loss_stops_and_names_the_step(image_folder, tmp_path):
    with pytest.raises(IEBNZooError, match=r'the (loss|weights) .*epoch 0.*learning rate 1e\+30.*\n.*last\.pth\.tar'):
        train(flags(image_folder, tmp_path / 'run', '--lr', '1e30', '--epochs', '3'))
    assert load_checkpoint(tmp_path / 'run' / LAST)['epoch'] == -1


def test_interrupt_leaves_a_resumable_state(image_folder, tmp_path, monkeypatch, capsys):
    from iebn_zoo.training.engine import run as module
    epoch_of = module.train_one_epoch

    def interrupted(trainer, loader, position, *args):
        if position.epoch == 1:
            raise KeyboardInterrupt
        return epoch_of(trainer, loader, position, *args)

    monkeypatch.setattr(module, 'train_one_epoch', interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(flags(image_folder, tmp_path / 'run'))
    assert '--resume' in capsys.readouterr().out
    monkeypatch.undo()
    train(flags(image_folder, tmp_path / 'run', '--resume'))
    assert [r['epoch'] for r in load_checkpoint(tmp_path / 'run' / LAST)['rows']] == [0, 1]


@pytest.mark.parametrize('more, begun, held, said', [
    ((), True, True, 'continue with the same command and --resume (state in RUN/last.pth.tar)'),
    (('--overwrite',), True, True, 'continue with the same command, with --resume in place of --overwrite (state in '),
    (('--overwrite',), False, True, 'start again with the same command (no checkpoint was written)'),
    (('--overwrite',), True, False, 'start again with the same command (no checkpoint was written)'),
    ((), True, False, 'start again with the same command and --overwrite (no checkpoint was written)'),
    ((), False, False, 'start again with the same command (no checkpoint was written)'),
    (('--resume',), False, True, 'continue with the same command (state in RUN/last.pth.tar)'),
    (('--resume', 'FILE'), False, False, 'start again with the same command (no checkpoint was written)'),
    (('--resume', 'if-any'), True, False, 'start again with the same command (no checkpoint was written)'),
])
def test_a_stopped_run_says_the_command_that_goes_on(
        image_folder, tmp_path, monkeypatch, capsys, more, begun, held, said):
    run = tmp_path / 'run'
    if held and not (begun and '--overwrite' in more):
        train(flags(image_folder, run, '--epochs', '1', '--img-size', '16'))

    class Interrupted:
        def train(self, argv):
            if held:
                (run / LAST).touch()
            raise KeyboardInterrupt

    def build(plan, lock):
        if not begun:
            raise KeyboardInterrupt
        return Interrupted()

    run.mkdir(exist_ok=True)
    monkeypatch.setattr('iebn_zoo.training.train.build', build)
    capsys.readouterr()
    with pytest.raises(KeyboardInterrupt):
        train(flags(image_folder, run, '--epochs', '1', '--img-size', '16', *more))
    assert f'stopped; {said.replace("RUN", str(run))}' in capsys.readouterr().out
