"""What surrounds a run: SLURM's variables, the caller's command line, pipes, devices, links, loaders that die."""
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from iebn_zoo.commands.train import main as train
from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.engine.random_state import rng_state, set_rng_state
from iebn_zoo.training.run import rotation as store
from iebn_zoo.training.run.checkpoint import BEST, LAST, PREVIOUS, load_checkpoint
from iebn_zoo.util.device import resolve_device
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.processes import leave_allocation
from tests.support.training.datasets import flags

SMALL = ('--model-kwargs', 'layers=(1,1,1)', '--img-size', '16')


def command(*argv, **kwargs):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', **kwargs.pop('env', {})}
    return subprocess.Popen([sys.executable, '-m', 'iebn_zoo', *argv], env=env, text=True, **kwargs)


@pytest.mark.parametrize('environment, left', [
    (dict(SLURM_NTASKS='8', SLURM_PROCID='0', SLURM_LOCALID='0'), False),  # python in a batch script
    (dict(SLURM_NTASKS='8'), False),  # in the shell of salloc
    (dict(SLURM_NTASKS='8', SLURM_PROCID='0', SLURM_STEP_NUM_TASKS='1'), False),  # srun --pty
    (dict(SLURM_NTASKS='8', SLURM_PROCID='3', SLURM_STEP_NUM_TASKS='8'), True),  # srun python
    (dict(SLURM_NTASKS='8', SLURM_PROCID='0', WORLD_SIZE='2'), True),  # torchrun in a batch script
])
def test_only_what_srun_has_started_waits_for_others(monkeypatch, environment, left):
    for name in [n for n in os.environ if n.startswith('SLURM') or n == 'WORLD_SIZE']:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    leave_allocation()
    assert ('SLURM_NTASKS' in os.environ) == ('SLURM_PROCID' in os.environ) == left
    assert os.environ.get('WORLD_SIZE') == environment.get('WORLD_SIZE')


def test_a_plain_process_in_an_allocation_without_stdout_and_stderr_trains(image_folder, tmp_path):
    argv = ['train', *flags(image_folder, tmp_path / 'run', *SMALL, '--epochs', '1')]
    process = subprocess.run(['sh', '-c', 'exec "$0" "$@" >&- 2>&-', sys.executable, '-m', 'iebn_zoo', *argv],
                             env=dict(os.environ, OMP_NUM_THREADS='1', SLURM_NTASKS='4', SLURM_PROCID='0'), timeout=300)
    assert process.returncode == 0
    assert len(load_checkpoint(tmp_path / 'run' / LAST)['rows']) == 1


def test_a_reader_that_has_enough_is_no_traceback():
    process = command('train', '--help', stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(120) in (0, 128 + signal.SIGPIPE) and err == ''


def test_the_log_has_the_arguments_of_the_run_and_not_of_its_host(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['notebook.py', '--token', 'secret-of-the-host'])
    argv = flags(image_folder, tmp_path / 'run', *SMALL, '--epochs', '1')
    train(argv)
    text = (tmp_path / 'run' / 'environment.json').read_text()
    assert json.loads(text)['command'] == ['iebn-zoo', 'train', *argv] and 'secret' not in text


def test_the_home_directory_is_meant_in_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'recipe.yaml').write_text('data_dir: ~/data\n')
    from iebn_zoo.training.config.recipe import parse_with_recipe
    argv = ['--config=~/recipe.yaml', '--output=~/run', '--initial-checkpoint=~/x.pth']
    args = parse_with_recipe(train_parser(), argv)
    assert (args.data_dir, args.output, args.initial_checkpoint) == tuple(
        str(tmp_path / name) for name in ('data', 'run', 'x.pth'))


def test_every_command_means_the_home_directory(monkeypatch, tmp_path):
    from importlib import import_module

    from iebn_zoo.cli import COMMANDS
    monkeypatch.setenv('HOME', str(tmp_path))
    kinds = ('DIR', 'FILE', 'RUN', 'PNG', 'FILE.csv', 'DIR|OWNER/NAME')
    found = 0
    for module, _ in COMMANDS.values():
        for action in import_module(module).build_parser()._actions:
            if action.metavar in kinds:
                assert action.type('~/x') == str(tmp_path / 'x'), (module, action.dest)
                found += 1
    assert found > 20


def test_accelerators_other_than_cuda(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: True)
    monkeypatch.setattr(torch.xpu, 'is_available', lambda: False)
    assert resolve_device('auto') == resolve_device('mps') == torch.device('mps')
    with pytest.raises(UsageError, match='--device mps:1 is not there'):
        resolve_device('mps:1')
    with pytest.raises(UsageError, match=r'--device xpu is not there \(0 GPUs found\)'):
        resolve_device('xpu')
    taken = []
    monkeypatch.setattr(torch.xpu, 'is_available', lambda: True)
    monkeypatch.setattr(torch.xpu, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.xpu, 'set_device', taken.append)
    assert resolve_device('xpu:1') == torch.device('xpu', 1) and resolve_device('auto').type == 'xpu'
    assert taken == [torch.device('xpu', 1), torch.device('xpu', 0)]
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: False)
    with pytest.raises(UsageError, match='--device mps is not there'):
        resolve_device('mps')
    with pytest.raises(UsageError, match="unknown --device 'tpu'.*\n.*xpu:N or mps"):
        resolve_device('tpu')


@pytest.mark.parametrize('kind', ['mps', 'xpu'])
def test_the_generator_of_the_accelerator_is_part_of_a_checkpoint(monkeypatch, kind):
    module, kept = torch.get_device_module(kind), []
    monkeypatch.setattr(module, 'get_rng_state', lambda *device: torch.tensor([7, len(device)], dtype=torch.uint8))
    monkeypatch.setattr(module, 'set_rng_state', lambda state, *device: kept.append((state.tolist(), len(device))))
    device = torch.device(kind)
    set_rng_state(rng_state(device), device)
    count = 0 if kind == 'mps' else 1
    assert kept == [([7, count], count)]


def test_the_same_checkpoint_under_several_names_is_one_file(image_folder, tmp_path):
    run = tmp_path / 'run'
    train(flags(image_folder, run, *SMALL, '--epochs', '3', '--checkpoint-hist', '5'))
    epochs = {name: load_checkpoint(run / name)['epoch'] for name in (LAST, BEST, PREVIOUS)}
    assert (epochs[LAST], epochs[PREVIOUS]) == (2, 1)
    files = {p.stat().st_ino for p in run.glob('*.pth.tar')}
    assert len(files) == 3 and len(list(run.glob('*.pth.tar'))) == 6
    for name, epoch in epochs.items():
        assert (run / name).samefile(run / f'checkpoint-{epoch}.pth.tar')
    assert not list(run.glob('.*.tmp'))


def test_without_links_it_is_copied_and_twice_is_once(tmp_path, monkeypatch):
    a, b = tmp_path / 'a', tmp_path / 'b'
    a.write_text('content')
    with monkeypatch.context() as patch:
        def refuse(*args):
            raise OSError('no links here')

        patch.setattr(os, 'link', refuse)
        store.copy_file(a, b)
    assert b.read_text() == 'content' and not b.samefile(a)
    store.copy_file(a, b)
    store.copy_file(a, b)
    assert b.samefile(a) and sorted(p.name for p in tmp_path.iterdir()) == ['a', 'b']


def test_a_single_value_per_channel_is_a_message_before_anything_is_written(image_folder, tmp_path):
    argv = flags(image_folder, tmp_path / 'run', '--img-size', '4', '--batch-size', '1')
    with pytest.raises(UsageError, match='a batch of 1 image cannot be trained on: .*more than 1 value per channel'):
        train(argv)
    assert not (tmp_path / 'run').exists()
    train([*argv, '--img-size', '8', '--epochs', '1', *SMALL[:2]])


def test_a_loader_that_dies_is_a_message_with_the_way_on(image_folder, tmp_path):
    run = tmp_path / 'run'
    argv = flags(image_folder, run, *SMALL, '--epochs', '500', '-j', '1', '--no-device-data')
    process = command('train', *argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.time() + 300
    while not (run / 'checkpoint-0.pth.tar').exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.05)
    loaders = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(process.pid)], capture_output=True, text=True)
    os.kill(int(loaders.stdout.split()[-1]), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == IEBNZooError.exit_code and 'Traceback' not in err, err
    assert 'error: a loader process ended: DataLoader worker' in err and '/dev/shm has' in err
    assert '--resume' in err and '-j 0 loads in the main process' in err
