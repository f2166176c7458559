"""Batch statistics over several processes: two halves of a batch are the batch."""
import copy
import os
import subprocess
import sys

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import distributed, nn

from iebn_zoo.layers import IEBatchNorm2d
from iebn_zoo.training.engine.sync_bn import CrossProcessNorm2d, CrossProcessNormAct2d, share_statistics
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from tests.support.paths import ROOT
from tests.support.training.datasets import flags, write_folder

CPU = torch.device('cpu')


@pytest.fixture
def group(tmp_path):
    distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize('momentum', [0.3, None])
@pytest.mark.parametrize('kind', [nn.BatchNorm2d, BatchNormAct2d])
def test_alone_it_is_a_batch_norm(group, kind, momentum):
    torch.manual_seed(0)
    norm = kind(5).double()
    norm.momentum = momentum
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    shared = share_statistics(copy.deepcopy(norm), CPU)
    assert type(shared) is (CrossProcessNormAct2d if kind is BatchNormAct2d else CrossProcessNorm2d)
    for mode in (True, True, False):
        x = (3 + 2 * torch.randn(4, 5, 3, 2)).double()
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [n.train(mode)(i) for n, i in zip((norm, shared), inputs, strict=True)]
        for y in outputs:
            (y * torch.arange(y.numel()).view(y.shape)).sum().backward()
        torch.testing.assert_close(outputs[0], outputs[1])
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
        torch.testing.assert_close(norm.weight.grad, shared.weight.grad)
        torch.testing.assert_close(norm.state_dict(), shared.state_dict())


def test_a_large_mean_does_not_cancel(group):
    x = 1e3 + torch.randn(8, 3, 16, 16)
    shared = share_statistics(nn.BatchNorm2d(3, affine=False), CPU)
    oracle = nn.functional.batch_norm(x.double(), None, None, training=True)
    torch.testing.assert_close(shared(x).double(), oracle, atol=1e-4, rtol=1e-4)


def test_of_an_iebn_layer_the_child_is_replaced_and_keys_stay():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), IEBatchNorm2d(4), nn.BatchNorm2d(4))
    keys = list(model.state_dict())
    model = share_statistics(model, CPU)
    assert type(model[1]) is IEBatchNorm2d and type(model[1].bn) is type(model[2]) is CrossProcessNorm2d
    assert list(model.state_dict()) == keys


def test_two_processes_with_half_the_batch_are_one_with_the_whole(tmp_path):
    data = write_folder(tmp_path / 'data', train=54, test=4, size=16)  # 162 images: five updates of 2 x 16 an epoch
    argv = ('--img-size', '16', '--no-aug', '--epochs', '4', '--lr', '0.02', '--sync-bn', '--model-ema',
            '--grad-accum-steps', '2')
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
    assert a['updates'] == b['updates'] == 20
    for key in ('state_dict', 'state_dict_ema'):
        assert a[key]['bn1.weight'].dtype == torch.float64
        torch.testing.assert_close(a[key], b[key], atol=1e-10, rtol=1e-10)
    assert [r['train_loss'] for r in a['rows']] == pytest.approx([r['train_loss'] for r in b['rows']], abs=1e-10)
    assert (tmp_path / 'two' / 'rank1.log').read_text().count('epoch') == 4
