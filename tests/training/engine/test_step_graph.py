"""Steps as CUDA graphs: on a GPU the real ones; here the same code around something that only acts as if."""
import argparse

import pytest
import timm
import torch
from torch import nn

from iebn_zoo.training.config.arguments import train_parser
from iebn_zoo.training.engine import build, step_graph
from iebn_zoo.training.engine.step_graph import StepGraph, check_step_graph
from iebn_zoo.training.train import train
from iebn_zoo.util.errors import UsageError
from tests.support.training.datasets import flags
from tests.training.kill_and_resume import compare_runs

CPU = torch.device('cpu')


class ActsAsIf(StepGraph):
    """Runs the step anew where a graph would be replayed, and writes into the recorded tensors as a graph does."""

    recordings = 0

    def __init__(self, step, model):
        super().__init__(step, model, record=self._pretend)

    def _pretend(self, step):
        type(self).recordings += 1
        buffers, state = [b.clone() for b in self.model.buffers()], torch.get_rng_state()
        outputs = step()
        recorded = [p.grad for p in self.model.parameters()]
        torch.set_rng_state(state)  # a recording runs nothing
        for buffer, value in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(value)
        for tensor in (*outputs, *(g for g in recorded if g is not None)):
            tensor.fill_(float('nan'))

        def replay():
            kept = [p.grad for p in self.model.parameters()]
            self._clear()
            for tensor, new in zip(outputs, step(), strict=True):
                tensor.copy_(new)
            for parameter, gradient, before in zip(self.model.parameters(), recorded, kept, strict=True):
                if gradient is not None:
                    gradient.copy_(parameter.grad)
                parameter.grad = before

        return replay, outputs


def runs(image_folder, tmp_path, argv, device):
    more = ('--model-ema', '--log-interval', '3', '--device', device)
    for name, graph in (('eager', ()), ('graph', ('--cuda-graph',))):
        train(train_parser().parse_args(flags(image_folder, tmp_path / name, *argv, *more, *graph)))
    return tmp_path / 'eager', tmp_path / 'graph'


SETTINGS = [
    ('--drop', '0.2', '--clip-grad', '1'),
    # 3 batches an epoch: the last update has one batch alone
    ('--grad-accum-steps', '2', '--mixup', '0.3', '--smoothing', '0.1', '--channels-last'),
    ('--amp', '--drop-path', '0.3', '--bce-loss', '--no-device-data'),
    ('--norm-noise', '0.8', '0.2', '--gate-stats', '--batch-noise', '4', '--model-kwargs', 'freeze_gate_weight=True'),
]


@pytest.mark.parametrize('argv', SETTINGS, ids=' '.join)
def test_the_bits_are_those_of_the_plain_step(image_folder, tmp_path, monkeypatch, argv):
    monkeypatch.setattr(build, 'StepGraph', ActsAsIf)
    monkeypatch.setattr(build, 'check_step_graph', lambda *args: None)
    monkeypatch.setattr(ActsAsIf, 'recordings', 0)
    assert compare_runs(*runs(image_folder, tmp_path, ('--img-size', '16', *argv), 'cpu')) == []
    assert ActsAsIf.recordings == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('argv', [*SETTINGS, ('--amp', '--amp-dtype', 'float16')], ids=' '.join)
def test_on_a_gpu(image_folder, tmp_path, argv):
    assert compare_runs(*runs(image_folder, tmp_path, ('--deterministic', *argv), 'cuda')) == []


def test_another_shape_is_recorded_anew_and_frozen_weights_get_no_gradient():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(1), nn.LazyLinear(2))
    model(torch.zeros(2, 3, 5, 5))
    model[0].bias.requires_grad_(False)
    before = [b.clone() for b in model.buffers()]

    def step(images, targets):
        loss = nn.functional.cross_entropy(model(images), targets)
        loss.backward()
        return (loss.detach(),)

    graph = ActsAsIf(step, model)
    ActsAsIf.recordings = 0
    for count in (3, 2, 3):
        images, targets = torch.randn(count, 3, 5, 5), torch.arange(count) % 2
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
        model.zero_grad()
        expected = step(images, targets)[0], [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        state = [b.clone() for b in model.buffers()]
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
        loss, = graph(images, targets)
        assert torch.equal(loss, expected[0])
        assert all(torch.equal(a, b) for a, b in zip(model.buffers(), state, strict=True))
        for parameter, gradient in zip(model.parameters(), expected[1], strict=True):
            assert parameter.grad is gradient is None or torch.equal(parameter.grad, gradient)
    assert ActsAsIf.recordings == 2


def test_a_step_that_cannot_be_recorded_is_a_message():
    def record(step):
        raise RuntimeError('CUDA error: operation not permitted when stream is capturing\nmore')

    model = nn.Linear(2, 2)
    graph = StepGraph(lambda images, targets: (images.sum(),), model, record)
    with pytest.raises(UsageError, match='the training step of Linear cannot be recorded: CUDA error: operation not'):
        graph(torch.zeros(1, 2), torch.zeros(1))


@pytest.mark.parametrize('change, processes, reason', [
    (dict(device=CPU), 1, 'the device is cpu, and CUDA graphs need a CUDA GPU'),
    ({}, 2, 'the gradients of 2 processes'),
    (dict(torchcompile='inductor'), 1, '--torchcompile-mode reduce-overhead'),
    (dict(torchcompile_mode='max-autotune'), 1, '--torchcompile-mode reduce-overhead'),
    (dict(grad_checkpointing=True), 1, 'random numbers'),
    (dict(momentum=None), 1, 'momentum None'),
    (dict(hook=True), 1, 'hooks'),
])
def test_what_cannot_be_recorded_is_refused_with_the_reason(change, processes, reason):
    settings = dict(device=torch.device('cuda'), torchcompile=None, torchcompile_mode=None, grad_checkpointing=False)
    model = timm.create_model('iebn_resnet20_cifar')
    device = change.pop('device', settings.pop('device'))
    if 'momentum' in change:
        model.bn1.bn.momentum = change.pop('momentum')
    if change.pop('hook', False):
        model.fc.register_forward_hook(lambda *args: None)
    args = argparse.Namespace(**{**settings, **change})
    with pytest.raises(UsageError, match=f'--cuda-graph: .*{reason}'):
        check_step_graph(args, model, device, processes)
    assert step_graph._has_hooks(timm.create_model('iebn_resnet20_cifar')) is False


def test_the_flag_without_a_gpu_leaves_nothing_behind(image_folder, tmp_path):
    with pytest.raises(UsageError, match='the device is cpu'):
        train(train_parser().parse_args(flags(image_folder, tmp_path / 'run', '--cuda-graph')))
    assert not (tmp_path / 'run').exists()
