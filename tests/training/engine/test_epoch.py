"""What an update is: its batches, its gradient, its checks."""
import argparse
import copy

import pytest
import torch
from torch import nn

from iebn_zoo.commands.train import main as train
from iebn_zoo.training.engine.epoch import Position, _plan
from iebn_zoo.training.engine.update import Trainer
from iebn_zoo.training.run.checkpoint import LAST, load_checkpoint
from iebn_zoo.util.processes import Processes
from tests.support.training.datasets import flags

CPU = torch.device('cpu')


def trainer(**kwargs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    args = argparse.Namespace(amp=False, channels_last=False, clip_grad=None)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    return Trainer(model, model, nn.CrossEntropyLoss(), optimizer, None, args, Processes(CPU), **kwargs)


def weights(t):
    return torch.cat([p.detach().flatten() for p in t.model.parameters()])


@pytest.mark.parametrize('scaled', [False, True])
def test_accumulated_batches_are_one_large_batch(scaled):
    scaler = dict(scaler=torch.amp.GradScaler('cpu')) if scaled else {}
    whole, parts = trainer(), trainer(**scaler)
    images, targets = torch.randn(12, 3, 2, 2), torch.randint(0, 3, (12,))
    for _ in range(3):
        loss = whole.step(images, targets)
        losses = [parts.accumulate(images[i:i + 4], targets[i:i + 4], 3, i == 8)[0] for i in (0, 4, 8)]
        parts.apply()
        assert torch.stack(losses).mean() == pytest.approx(float(loss), abs=1e-6)
    torch.testing.assert_close(weights(whole), weights(parts), atol=1e-6, rtol=1e-5)
    assert whole.updates == parts.updates == 3


def test_companions_go_through_the_network_and_not_into_the_loss():
    t = trainer()
    images, targets, others = torch.randn(4, 3, 2, 2), torch.randint(0, 3, (4,)), torch.randn(5, 3, 2, 2)
    seen = []
    t.model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    loss, logits = t.accumulate(images, targets, companions=others)
    grad = t.model[1].weight.grad.clone()
    t.optimizer.zero_grad()
    alone, _ = t.accumulate(images, targets)
    assert seen == [9, 4] and logits.shape == (4, 3)
    torch.testing.assert_close(loss, alone)
    torch.testing.assert_close(grad, t.model[1].weight.grad)


def test_weights_are_finite_looks_at_parameters_and_buffers():
    t = trainer()
    t.model.register_buffer('statistics', torch.zeros(3))
    t.model.register_buffer('count', torch.tensor(3))
    assert t.weights_are_finite()
    for tensor, value in ((t.model.statistics, float('inf')), (t.model[1].bias, float('nan'))):
        kept = copy.deepcopy(tensor.data)
        tensor.data[1] = value
        assert not t.weights_are_finite()
        tensor.data.copy_(kept)
    assert t.weights_are_finite()


def test_a_loss_scale_that_collapses_is_seen():
    t = trainer(scaler=torch.amp.GradScaler('cpu'))
    before = weights(t).clone()
    images, targets = torch.randn(4, 3, 2, 2), torch.randint(0, 3, (4,))
    hook = t.model[1].weight.register_hook(lambda grad: grad * float('inf'))
    seen = []
    for _ in range(31):  # from 2^16 to 2^-15
        seen.append(t.collapsed_scale())
        t.step(images, targets)
    assert seen == [None] * 31 and t.collapsed_scale() == 2 ** -15 and torch.equal(weights(t), before)
    hook.remove()
    assert trainer().collapsed_scale() is None


def test_the_last_update_of_an_epoch_may_be_smaller():
    plan = _plan(7, 3, Position(), ())
    assert [(b.step, b.first, b.batches, b.last) for b in plan] == [
        (0, 0, 3, False), (1, 0, 3, False), (2, 0, 3, True), (3, 3, 3, False), (4, 3, 3, False), (5, 3, 3, True),
        (6, 6, 1, True)]
    assert [b.step for b in _plan(7, 3, Position(step=3), ())] == [3, 4, 5, 6]


def test_updates_are_passed_over_whole_and_in_their_epoch_alone():
    assert [b.step for b in _plan(8, 2, Position(epoch=1), [(1, 2, 5), (0, 0, 7)])] == [0, 1, 6, 7]
    assert [b.step for b in _plan(8, 2, Position(epoch=1, step=4), [(1, 2, 5)])] == [6, 7]


def test_a_run_with_accumulation_counts_its_updates(image_folder, tmp_path, capsys):
    train(flags(image_folder, tmp_path / 'run', '--batch-size', '8', '--img-size', '16', '--grad-accum-steps', '4',
                '--sched-on-updates', '--sched', 'step', '--decay-epochs', '1'))
    last = load_checkpoint(tmp_path / 'run' / LAST)
    assert last['updates'] == 4  # six batches an epoch: an update of four, and one of two
    assert [r['lr'] for r in last['rows']] == pytest.approx([0.05, 0.005])
    assert '32 images per update' in capsys.readouterr().out
