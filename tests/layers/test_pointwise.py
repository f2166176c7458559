"""The mean behind a 1x1 convolution without reading its output, and when it may not be taken."""
import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations

from iebn_zoo import IEBatchNormAct2d
from iebn_zoo.layers.pointwise import mean_behind
from tests.layers.util import randomized

X = torch.randn(4, 3, 15, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc'])
def test_equals_the_mean_of_the_output(bias, memory_format):
    conv = nn.Conv2d(3, 9, 1, bias=bias, dtype=torch.float64)
    x = X.contiguous(memory_format=memory_format)
    torch.testing.assert_close(mean_behind(conv, x), conv(x).mean((2, 3)), atol=1e-12, rtol=1e-12)


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked():
    conv = nn.Conv2d(3, 9, 1, dtype=torch.float64)
    conv.register_forward_hook(lambda module, args, y: 2 * y)
    return conv


@pytest.mark.parametrize('conv', [
    nn.Conv2d(3, 9, 3, padding=1), nn.Conv2d(3, 9, 1, stride=2), nn.Conv2d(3, 9, 1, groups=3),
    nn.Conv2d(3, 9, 1, padding=1), Doubled(3, 9, 1), hooked(), nn.Identity(),
    parametrizations.weight_norm(nn.Conv2d(3, 9, 1))], ids=lambda c: type(c).__name__)
def test_is_not_taken_where_it_would_be_another(conv):
    assert mean_behind(conv.double(), X) is None


def test_is_not_taken_where_it_would_be_dearer_or_less_precise():
    conv = nn.Conv2d(3, 9, 1, dtype=torch.float64)
    assert mean_behind(conv, X[:1, :, :1, :1]) is None, 'the weights are most of the work'
    assert mean_behind(conv.bfloat16(), X.bfloat16()) is None
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert mean_behind(conv.float(), X.float()) is None


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_gradients_are_those_of_a_mean_that_is_computed(training):
    layer = randomized(IEBatchNormAct2d(3, dtype=torch.float64)).train(training)
    results = []
    for known in (True, False):
        module, x = copy.deepcopy(layer), X.clone().requires_grad_()
        y = module(x, None, x.mean((2, 3)) if known else None)
        y.square().sum().backward()
        results.append([y, x.grad, *(p.grad for p in module.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize('change', ['nothing', 'hook', 'subclass'])
def test_network_with_a_changed_convolution(change):
    """What comes out is what the changed convolution makes it."""
    torch.manual_seed(0)
    fused = timm.create_model('iebn_resnet50', layers=(1, 1, 1, 1), num_classes=5).double()
    plain = timm.create_model('iebn_resnet50', layers=(1, 1, 1, 1), num_classes=5, fuse_act=False).double()
    randomized(fused)
    plain.load_state_dict(fused.state_dict())
    for model in (fused, plain):
        conv = model.layer1[0].conv3
        if change == 'hook':
            conv.register_forward_hook(lambda module, args, y: 2 * y + 1)
        elif change == 'subclass':
            conv.__class__ = Doubled
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert mean_behind(fused.layer1[0].conv3, torch.randn(2, 64, 16, 16).double()) is None or change == 'nothing'
    y = plain.eval()(x)
    torch.testing.assert_close(fused.eval()(x), y, atol=1e-9 * y.abs().max().item(), rtol=1e-9)
