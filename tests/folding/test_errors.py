"""What cannot be folded is refused with the value, the expectation and the way out; the model stays as it was."""
import pytest
import torch
from torch import nn

from iebn_zoo import IEBatchNorm2d, fold_gates
from iebn_zoo.errors import IEBNZooError, UsageError
from tests.folding.networks import images, network, zoo_model

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
    (lambda model: nn.Sequential(nn.DataParallel(model)), '0 is wrapped in DataParallel'),
], ids=['script', 'parallel', 'parallel-within'])
def test_wrapped(wrap, message):
    with pytest.raises(UsageError, match=message):
        fold_gates(wrap(network(torch.float32)), X)


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
