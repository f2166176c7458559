"""Inference may write over a convolution's output, but only where nobody sees it."""
import copy

import pytest
import timm
import torch
from timm.models._features_fx import create_feature_extractor
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from iebn_zoo import IEBatchNormAct2d
from iebn_zoo.layers.conv_output import norm_of_output
from tests.support.layers import randomized

X = torch.randn(4, 3, 9, 8, generator=torch.Generator().manual_seed(0))


def pair(conv=None):
    torch.manual_seed(0)
    return conv or nn.Conv2d(3, 6, 3), randomized(IEBatchNormAct2d(6)).eval()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=['nchw', 'nhwc'])
@pytest.mark.parametrize('residual', [False, True])
def test_same_bits_in_the_place_of_the_input(dtype, memory_format, residual):
    conv, norm = pair()
    conv, x = conv.to(dtype), X.to(dtype).contiguous(memory_format=memory_format)
    with torch.no_grad():
        y = conv(x)
        others = (torch.randn_like(y),) if residual else ()
        expected = norm(y.clone(memory_format=torch.preserve_format), *others)
        out = norm_of_output(conv, norm, y, *others)
    assert torch.equal(out, expected) and out.data_ptr() == y.data_ptr()


class Keeping(nn.Conv2d):
    pass


def hooked(method):
    conv, norm = pair()
    module = conv if method.startswith('conv') else norm
    getattr(module, method.split('.')[1])(lambda *args: None)
    return conv, norm


def patched(which):
    modules = pair()
    module = modules[which]
    old = module.forward
    module.forward = lambda *args: old(*args)
    return modules


@pytest.mark.parametrize('make', [
    lambda: pair(Keeping(3, 6, 3)), lambda: (pair()[0], pair()[1].train()),
    lambda: hooked('conv.register_forward_hook'), lambda: hooked('norm.register_forward_pre_hook'),
    lambda: hooked('norm.register_forward_hook'), lambda: patched(0), lambda: patched(1)],
    ids=['subclass', 'train', 'conv_hook', 'norm_pre_hook', 'norm_hook', 'patched_conv', 'patched_norm'])
def test_input_stays_where_someone_may_see_it(make):
    conv, norm = make()
    with torch.no_grad():
        y = conv(X)
        before = y.clone()
        out = norm_of_output(conv, norm, y)
    assert torch.equal(y, before) and out.data_ptr() != y.data_ptr()


def test_input_stays_under_autograd_and_global_hooks():
    conv, norm = pair()
    y = conv(X).detach()
    before = y.clone()
    norm_of_output(conv, norm, y)
    handle = register_module_forward_hook(lambda *args: None)
    try:
        with torch.no_grad():
            norm_of_output(conv, norm, y)
    finally:
        handle.remove()
    assert torch.equal(y, before)


def network(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5)
    for module in model.modules():
        if isinstance(module, IEBatchNormAct2d):
            randomized(module)
    return model.eval()


@pytest.mark.parametrize('name', ['iebn_resnet18', 'iebn_resnet26'])
@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_network_computes_the_same_with_and_without_autograd(name, mode):
    model = network(name)
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)
    assert expected.isfinite().all() and not torch.equal(expected[0], expected[1])
    with mode():
        assert torch.equal(model(x), expected) and torch.equal(model(x), expected)


@pytest.mark.parametrize('name', ['iebn_resnet18', 'iebn_resnet26'])
def test_features_between_convolution_and_norm(name):
    """Neither a hook nor an FX graph that returns a convolution's output gets it overwritten."""
    model = network(name)
    x, convs = torch.randn(2, 3, 64, 64), ('layer1.0.conv1', 'layer1.0.conv2', 'layer2.0.conv2')
    expected, seen = {}, {}
    hooks = copy.deepcopy(model)
    for store, watched in ((expected, model), (seen, hooks)):
        for conv in convs:
            watched.get_submodule(conv).register_forward_hook(
                lambda module, args, y, store=store, conv=conv: store.__setitem__(conv, y))
    model(x)
    with torch.no_grad():
        hooks(x)
        features = create_feature_extractor(network(name), {c: c for c in convs})(x)
    for conv in convs:
        assert torch.equal(seen[conv], expected[conv])
        torch.testing.assert_close(features[conv], expected[conv], atol=1e-4, rtol=1e-4)
