"""CUDA graphs and streams: a replay, a graphed callable and another stream compute what an eager call computes."""
import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.studies.benchmark.gpu.clock import capture, warm_up
from iebn_zoo.studies.benchmark.variants import make_model
from tests.support.gpu_device import CUDA, DEVICE, graphed, layouts, require_gpu, side_stream
from tests.support.layers import randomized

require_gpu()

classes = pytest.mark.parametrize('layer_class', [IEBatchNorm2d, IEBatchNormAct2d])
dtypes = pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)


def tensors(layout, dtype, count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(6, 33, 9, 7, generator=generator).to(DEVICE, dtype, memory_format=layout)
            for _ in range(count)]


@classes
@dtypes
@layouts
def test_replay_of_a_layers_step(layer_class, layout, dtype):
    """Captured on one batch, replayed on two others: nothing of the first is left in the graph."""
    layer = randomized(layer_class(33)).to(DEVICE)
    state = copy.deepcopy(layer.state_dict())
    x, dy = tensors(layout, dtype)
    x.requires_grad_()

    def step():
        y = layer(x)
        return (y, *torch.autograd.grad(y, [x, *layer.parameters()], dy))

    warm_up(step, DEVICE)
    replay = capture(step, DEVICE)
    results = []
    for run in (step, lambda: (replay(), replay.result)[1]):
        layer.load_state_dict(state)
        for seed in (1, 2):
            with torch.no_grad():
                for target, source in zip((x, dy), tensors(layout, dtype, seed=seed), strict=True):
                    target.copy_(source)
            results.append([t.detach().clone() for t in (*run(), *layer.state_dict().values())])
        assert layer.bn.num_batches_tracked == state['bn.num_batches_tracked'] + 2
    for eager, replayed in zip(results[:2], results[2:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(eager, replayed, strict=True))
    assert not torch.equal(results[0][0], results[1][0])


@pytest.mark.parametrize('residual', [False, True], ids=['alone', 'with a shortcut'])
@layouts
def test_replay_of_inference(layout, residual):
    layer = randomized(IEBatchNormAct2d(33)).to(DEVICE).eval()
    x, shortcut = tensors(layout, torch.float32)
    inputs = (x, shortcut) if residual else (x,)

    def step():
        with torch.inference_mode():
            return layer(*inputs)

    warm_up(step, DEVICE)
    replay = capture(step, DEVICE)
    x.copy_(tensors(layout, torch.float32, seed=5)[0])
    replay()
    assert torch.equal(replay.result, step())


@classes
@dtypes
@layouts
def test_graphed_callable(layer_class, layout, dtype):
    plain = randomized(layer_class(33)).to(DEVICE)
    layer = graphed(copy.deepcopy(plain), tensors(layout, dtype)[0].requires_grad_())
    layer.load_state_dict(plain.state_dict())  # graphing runs the layer on the example, which moves its statistics
    for seed in (1, 2):
        x, dy = tensors(layout, dtype, seed=seed)
        found = []
        for module in (plain, layer):
            leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
            y = module(leaf)
            module.zero_grad()
            y.backward(dy)
            found.append([t.detach().clone() for t in (
                y, leaf.grad, *(p.grad for p in module.parameters()), *module.state_dict().values())])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize('how', ['graph', 'graphed callable'])
def test_training_of_a_network(how):
    """Three steps on different images end with the weights of three eager steps."""
    size, batch = (32, 16) if CUDA else (8, 4)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(batch, 3, size, size, generator=generator).to(DEVICE) for _ in range(4)]
    labels = (torch.arange(batch) % 100).to(DEVICE)
    torch.manual_seed(0)
    start = make_model('iebn', 'resnet20_cifar').to(DEVICE).train()
    found = []
    for captured in (False, True):
        model = copy.deepcopy(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        images = batches[0].clone()

        def forward_backward(model=model, images=images, optimizer=optimizer):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(images), labels).backward()

        run = forward_backward
        if captured and how == 'graph':
            warm_up(forward_backward, DEVICE)
            run = capture(forward_backward, DEVICE)
        elif captured:
            graphed(model, images.clone())
        model.load_state_dict(start.state_dict())
        for batch_of_images in batches[1:]:
            images.copy_(batch_of_images)
            run()
            optimizer.step()
        found.append({k: v.clone() for k, v in model.state_dict().items()})
    eager, replayed = found
    for name, value in eager.items():
        torch.testing.assert_close(replayed[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert not torch.equal(eager['conv1.weight'], start.conv1.weight)
    assert eager['bn1.bn.num_batches_tracked'] == 3


@classes
@layouts
def test_another_stream(layer_class, layout):
    """Work that went to the default stream would come too late for the copies that are made on this one."""
    x, dy = tensors(layout, torch.float32)
    results = []
    for context in (nullcontext, side_stream):
        layer = randomized(layer_class(33)).to(DEVICE)
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        with context():
            y = layer(leaf)
            found = (y, *torch.autograd.grad(y, [leaf, *layer.parameters()], dy), *layer.state_dict().values())
            results.append([t.detach().clone() for t in found])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
