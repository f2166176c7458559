"""Two processes: each takes half of the batch, and together they train as one process on the whole batch."""
import os
import subprocess
import sys

import pytest
import torch

from iebn_zoo.training.engine.model_checks import check_sync_bn
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.util.errors import UsageError
from iebn_zoo.util.processes import Processes
from iebn_zoo.weights.create import create_model
from tests.support.paths import ROOT
from tests.support.training.datasets import flags, write_folder


def test_two_processes_with_half_the_batch_are_one_with_the_whole(tmp_path):
    data = write_folder(tmp_path / 'data', train=54, test=4, size=16)  # 162 images: five updates of 2 x 16 an epoch
    torch.manual_seed(0)
    torch.save(create_model('iebn_resnet20_cifar', num_classes=3).state_dict(), tmp_path / 'start.pth')
    # frozen statistics: those of a batch would be other ones for half of it
    argv = ('--img-size', '16', '--no-aug', '--epochs', '2', '--lr', '0.02', '--freeze-stats', '--model-ema',
            '--initial-checkpoint', str(tmp_path / 'start.pth'), '--grad-accum-steps', '2')
    # in float32 one ReLU input whose sign is rounded the other way moves a gradient by 7e-4
    module = ['-m', 'tests.support.training.train_in_double']
    one = [sys.executable, *module, *flags(data, tmp_path / 'one', *argv)]
    two = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', *module,
           *flags(data, tmp_path / 'two', *argv, '--batch-size', '8')]
    for command in (one, two):
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS='1'),
                              timeout=600, cwd=ROOT)
        assert done.returncode == 0, done.stderr
    a, b = (load_checkpoint(tmp_path / name / LAST) for name in ('one', 'two'))
    assert a['updates'] == b['updates'] == 10
    for key in ('state_dict', 'state_dict_ema'):
        assert a[key]['bn1.weight'].dtype == torch.float64
        torch.testing.assert_close(a[key], b[key], atol=1e-10, rtol=1e-10)
    assert [r['train_loss'] for r in a['rows']] == pytest.approx([r['train_loss'] for r in b['rows']], abs=1e-10)
    assert (tmp_path / 'two' / 'rank1.log').read_text().count('epoch') == 2


@pytest.mark.parametrize('device, world, refused', [('cpu', 2, True), ('cpu', 1, False), ('cuda', 2, False)])
def test_sync_bn_of_several_processes_needs_cuda(device, world, refused):
    class Flags:
        sync_bn = True

    processes = Processes(torch.device(device), 0, world)
    if not refused:
        return check_sync_bn(Flags, processes)
    with pytest.raises(UsageError, match='--sync-bn: 2 processes compute on cpu'):
        check_sync_bn(Flags, processes)
