"""The commands as a user meets them: processes, exit codes, messages."""
import os
import signal
import subprocess
import sys
import time

import pytest

from iebn_zoo.commands.train import main as train
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from tests.support.training.datasets import flags, interruptible

pytestmark = pytest.mark.usefixtures('warm_python')

ENV = dict(os.environ, OMP_NUM_THREADS='1')


def iebn_zoo(*argv, **kwargs):
    return subprocess.run([sys.executable, '-m', 'iebn_zoo', *map(str, argv)], capture_output=True, text=True, env=ENV,
                          timeout=300, **kwargs)


def in_process(capsys, *argv):
    from iebn_zoo.cli import main
    code = main([str(a) for a in argv])
    return code, capsys.readouterr().err


@pytest.mark.parametrize('change, code, named', [
    (['--model', 'iebn_resnet21_cifar'], 2, 'iebn_resnet20_cifar'),
    (['--model', 'iebn_resnet32_cifar', '--pretrained'], 2, 'no pretrained weights'),
    (['--model', 'iebn_resnet50t', '--pretrained'], 2, 'Leave out --pretrained'),
    (['--model', 'iebn_resnet50.a1_in1k', '--pretrained'], 2, 'Did you mean iebn_resnet50.bn_a1_in1k'),
    (['--model', 'local-dir:nowhere'], 2, 'no config.json'),
    (['--data-dir', 'nowhere'], 2, 'no such directory: nowhere'),
    (['--num-classes', '7'], 2, 'num_classes is 7, but the data has 3'),
    (['--resume'], 2, 'no checkpoint'),
    (['--epochs', '0'], 2, '--epochs is 0'),
    (['--device', 'tpu'], 2, "unknown --device 'tpu'"),
    (['--opt', 'nothing'], 2, '--opt nothing'),
    (['--sched', 'nothing'], 2, '--sched'),
    (['--mixup', '0.2', '--batch-size', '15'], 2, 'expected an even one'),
    (['--mean', '0.5', '0.5'], 2, '--mean has 2 values'),
    (['--config', 'nowhere.yaml'], 2, 'no recipe at nowhere.yaml'),
    (['--on-nan', 'rollback'], 2, 'Expected stop, or rollback N'),
    (['--on-nan', 'pray', '2'], 2, "--on-nan is 'pray 2'"),
    (['--model-kwargs', 'drop_rate=0.1'], 2, 'Use --drop'),
    (['--model-kwargs', 'nonsense=0.1'], 2, 'nonsense'),
    (['--holdout', '0.3', '--val-split', 'test'], 2, 'contradict'),
    (['--grad-accum-steps', '0'], 2, '--grad-accum-steps is 0'),
    (['--drop-path', '0.1', '--model', 'vgg11', '--img-size', '32'], 2, 'cannot create vgg11'),
])
def test_a_mistake_is_a_short_message(capsys, image_folder, tmp_path, change, code, named):
    got, err = in_process(capsys, 'train', *flags(image_folder, tmp_path / 'run', *change))
    assert got == code and named in err and err.startswith('error: ')
    assert len(err.strip().splitlines()) <= 3 and 'Traceback' not in err


@pytest.mark.parametrize('rank, local_rank, said', [
    ('0', '0', 'error: '), ('1', None, 'error (process 1): '), ('4', '0', 'error (process 4): '), ('5', '1', '')])
def test_one_process_of_each_machine_says_what_is_wrong(capsys, monkeypatch, tmp_path, rank, local_rank, said):
    monkeypatch.setenv('RANK', rank)
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    if local_rank is not None:
        monkeypatch.setenv('LOCAL_RANK', local_rank)
    code, err = in_process(capsys, 'train', '--model', 'iebn_resnet20_cifar', '--data-dir', 'nowhere', '--output',
                           tmp_path / 'run')
    assert code == 2 and err == (f'{said}no such directory: nowhere.\nGive --data-dir a directory with the images.\n'
                                 if said else '')


def test_validate_mistakes(capsys, image_folder, tmp_path):
    (tmp_path / 'bad.pth.tar').write_bytes(b'\0x' * 100)
    for argv, code, named in (
            (['--checkpoint', tmp_path / 'bad.pth.tar'], 1, 'truncated'),
            (['--model', 'iebn_resnet32_cifar'], 2, 'no pretrained weights'),
            ([], 2, 'no --model given')):
        got, err = in_process(capsys, 'validate', '--data-dir', image_folder, *argv)
        assert got == code and named in err and len(err.strip().splitlines()) <= 3


@pytest.mark.parametrize('config, named', [
    ('{', 'cannot be read'),
    ('{"architecture": "iebn_resnet20_cifar", "num_classes": 3, "pretrained_cfg": {"num_classes": 5}}',
     'pretrained_cfg.num_classes is 5'),
    ('{"architecture": "nothing", "num_classes": 3, "pretrained_cfg": {}}', "architecture is 'nothing'"),
])
def test_wrong_config_of_a_directory(capsys, image_folder, tmp_path, config, named):
    (tmp_path / 'config.json').write_text(config)
    got, err = in_process(capsys, 'validate', '--model', f'local-dir:{tmp_path}', '--data-dir', image_folder)
    assert got == 1 and named in err and len(err.strip().splitlines()) <= 3


def test_unwritable_output(capsys, image_folder, tmp_path):
    (tmp_path / 'file').write_text('')
    assert in_process(capsys, 'train', *flags(image_folder, tmp_path / 'file' / 'run'))[0] == 1
    assert in_process(capsys, 'train', *flags(image_folder, tmp_path / 'file'))[0] == 2


def test_ctrl_c_and_resume(image_folder, tmp_path):
    run = tmp_path / 'run'
    command = ['train', *flags(image_folder, run, '--epochs', '200')]
    process = subprocess.Popen([sys.executable, '-m', 'iebn_zoo', *command], env=ENV, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=interruptible)
    deadline = time.time() + 120
    while not (run / 'summary.csv').exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and 'Traceback' not in err, err
    assert '--resume' in out
    done = load_checkpoint(run / LAST)['epoch']
    assert done >= 0
    shorter = flags(image_folder, run, '--epochs', str(done + 2), '--resume')
    assert f'epochs: 200 -> {done + 2}' in iebn_zoo('train', *shorter).stderr
    result = iebn_zoo('train', *shorter, '--allow-recipe-change')
    assert result.returncode == 0, result.stderr
    assert [r['epoch'] for r in load_checkpoint(run / LAST)['rows']] == list(range(done + 2))


def test_two_processes(image_folder, tmp_path, capsys):
    run = tmp_path / 'run'
    result = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m', 'iebn_zoo',
         'train', *flags(image_folder, run, '--batch-size', '8', '--model-ema')],
        capture_output=True, text=True, env=ENV, timeout=300)
    assert result.returncode == 0, result.stderr
    last = load_checkpoint(run / LAST)
    assert [r['epoch'] for r in last['rows']] == [0, 1] and last['num_eval_images'] == 21
    assert last['updates'] == 2 * (48 // 16) and len(last['rng']) == 2
    assert not any(k.startswith('module.') for k in last['state_dict'])
    assert result.stdout.count('epoch 1:') == 1  # the first process alone speaks
    assert (run / 'rank1.log').read_text().count('done') == 2 and not (run / 'rank0.log').exists()
    train(flags(image_folder, run, '--batch-size', '8', '--model-ema', '--resume'))
    assert 'not bit-identical from here: processes: 2 -> 1' in capsys.readouterr().out


def test_help_and_unknown_command():
    helped = iebn_zoo('--help')
    assert helped.returncode == 0 and all(c in helped.stdout for c in ('train', 'validate', 'export', 'push', 'demo'))
    assert iebn_zoo('nothing').returncode == 2
