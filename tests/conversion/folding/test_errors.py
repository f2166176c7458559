"""What cannot be folded is refused with the value, the expectation and the way out; the model stays as it was."""
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from iebn_zoo import IEBatchNorm2d, fold_gates
from iebn_zoo.util.errors import IEBNZooError, UsageError
from tests.support.conversion.folded_networks import images, network, zoo_model

X = images(3)
NAN = X.clone()
NAN[1, 0, 2, 2] = float('nan')


@pytest.mark.parametrize('bad, message', [
    ([], 'images holds no image'),
    (X[:0], 'images holds no image'),
    (iter(()), 'an iterator can be read only once'),
    (None, 'images is a NoneType'),
    (X[0], r'batch 0 of images is a float32 tensor of shape \(3, 12, 12\)'),
    ([X, X[0]], 'batch 1 of images'),
    ((X, torch.arange(3)), r'batch 1 of images is a int64 tensor of shape \(3,\)'),
    ((255 * X).byte(), 'a uint8 tensor'),
    ([{'image': X}], 'batch 0 of images is a dict'),
    (X[:, :2], r'Sequential fails on images of shape \(3, 2, 12, 12\).*channels'),
    (X[:, :, :2, :2], r'Sequential fails on images of shape \(3, 3, 2, 2\)'),
], ids=['no-batch', 'empty', 'used-up', 'none', 'one-image', 'second-batch', 'pair', 'bytes', 'dict', 'channels',
        'size'])
def test_images(bad, message):
    model = network(torch.float32).train()
    with pytest.raises(UsageError, match=message) as caught:
        fold_gates(model, bad)
    assert len(str(caught.value).splitlines()) in (2, 3)
    assert all(m.training and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize('bad, message', [([], 'held_out holds no image'), (X[0], 'batch 0 of held_out')])
def test_held_out(bad, message):
    with pytest.raises(UsageError, match=message):
        fold_gates(network(torch.float32), X, bad)


def test_held_out_is_not_the_calibration_set():
    with pytest.raises(UsageError, match='held_out is the very object'):
        fold_gates(network(torch.float32), X, X)


def test_not_finite():
    model = network(torch.float32)
    with pytest.raises(IEBNZooError, match="gates of the IEBN layer '1' are not finite"):
        fold_gates(model, NAN)
    with pytest.raises(IEBNZooError, match='logits that are not finite on held_out'):
        fold_gates(model, X, NAN)
    with torch.no_grad():
        model[4].gate_bias[0] = float('nan')
    with pytest.raises(IEBNZooError, match="gates of the IEBN layer '4' are not finite"):
        fold_gates(model, X)


def test_no_gate():
    with pytest.raises(UsageError, match='has no IEBN layer'):
        fold_gates(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), X)


@pytest.mark.parametrize('wrap, message', [
    (torch.jit.script, 'the model .RecursiveScriptModule. is compiled by TorchScript'),
    (nn.DataParallel, 'the model is wrapped in DataParallel'),
    (lambda model: torch.compile(model, backend='eager'), 'the model .OptimizedModule. is compiled by torch.compile'),
    (lambda model: nn.Sequential(nn.DataParallel(model)), '0 is wrapped in DataParallel'),
], ids=['script', 'parallel', 'compile', 'parallel-within'])
def test_wrapped(wrap, message):
    with pytest.raises(UsageError, match=message):
        fold_gates(wrap(network(torch.float32)), X)


class Tenfold(IEBatchNorm2d):
    def forward(self, x):
        return 10 * super().forward(x)


class OwnStatistics(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def with_hook(layer, find=lambda layer: layer):
    find(layer).register_forward_hook(lambda module, args, y: 2 * y)
    return layer


def with_own_statistics(layer):
    layer.bn = OwnStatistics(layer.num_features, affine=False)
    return layer


def compiled(layer):
    layer.compile(backend='eager')
    return layer


REFUSED = {
    'subclass': (lambda: Tenfold(3), 'it is a subclass'),
    'hook': (lambda: with_hook(IEBatchNorm2d(3)), 'it has forward_hooks: remove them first'),
    'hook_of_child': (lambda: with_hook(IEBatchNorm2d(3), lambda layer: layer.bn), 'it has forward_hooks'),
    'own_statistics': (lambda: with_own_statistics(IEBatchNorm2d(3)), 'it has its statistics in a OwnStatistics'),
    'compiled': (lambda: compiled(IEBatchNorm2d(3)), 'it is compiled: compile after converting'),
    'meta': (lambda: IEBatchNorm2d(3, device='meta'), 'it is on the meta device and has no values'),
}


@pytest.mark.parametrize('build, reason', REFUSED.values(), ids=REFUSED)
def test_a_layer_that_does_more(build, reason):
    model = nn.Sequential(build(), network(torch.float32))
    with pytest.raises(UsageError, match=f'^0 .*cannot become a BatchNorm2d: {reason}'):
        fold_gates(model, iter(()))  # before an image is read


def test_a_parametrized_layer_is_folded():
    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model = network(torch.float32)
    register_parametrization(model[1], 'gate_bias', Twice())
    register_parametrization(model[4], 'weight', Twice())
    with torch.no_grad():
        for i in (1, 4):
            model[i].gate_weight.zero_()
        folded, _ = fold_gates(model, X)
        torch.testing.assert_close(folded(X), model(X), rtol=1e-5, atol=1e-6)
    assert type(folded[1]) is nn.BatchNorm2d


def test_a_layer_that_does_not_run():
    model = network(torch.float32)
    model[0].unused = IEBatchNorm2d(2)
    with pytest.raises(IEBNZooError, match="'0.unused' was not run"):
        fold_gates(model, X)


@pytest.mark.parametrize('model, message', [
    (lambda: nn.Sequential(IEBatchNorm2d(3)), r'Tensor of shape \(2, 3, 12, 12\), which has no top-1'),
    (lambda: zoo_model(features_only=True), 'returns a list, which has no top-1')], ids=['map', 'features'])
def test_outputs_without_top1(model, message):
    fold_gates(model(), X)  # only the comparison needs logits
    with pytest.raises(UsageError, match=message):
        fold_gates(model(), X, images(2))
