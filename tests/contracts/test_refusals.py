"""Tools that would have to drop the gate end in an error, and the network still computes what it computed."""
import copy

import pytest
import timm
import torch
from timm.models._prune import adapt_model_from_string
from torch import nn
from torch.ao.quantization import fuse_modules, fuse_modules_qat
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils import mkldnn

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from tests.support.contracts.networks import NETWORKS, difference, images, network
from tests.support.layers import randomized

layers = pytest.mark.parametrize('layer_class', [IEBatchNorm2d, IEBatchNormAct2d])
networks = pytest.mark.parametrize('name', NETWORKS)


def pair(layer_class):
    return nn.Sequential(nn.Conv2d(3, 6, 1), randomized(layer_class(6)))


@layers
def test_fuse_conv_bn_eval(layer_class):
    with pytest.raises(AttributeError, match='running_mean'):
        fuse_conv_bn_eval(*pair(layer_class).eval())


@layers
def test_fuse_modules(layer_class):
    with pytest.raises((AssertionError, NotImplementedError), match='IEBatchNorm'):
        fuse_modules(pair(layer_class).eval(), ['0', '1'])
    with pytest.raises((AssertionError, NotImplementedError), match='IEBatchNorm'):
        fuse_modules_qat(pair(layer_class).train(), ['0', '1'])


def test_fuse_modules_with_the_child():
    """Its statistics would move into the convolution, and the gate would see a normalized input."""
    with pytest.raises((AssertionError, NotImplementedError), match='BatchNormStatistics2d'):
        fuse_modules(pair(IEBatchNorm2d).eval(), ['0', '1.bn'])


@networks
def test_fuse_modules_of_a_network(name):
    model = network(name)
    with pytest.raises((AssertionError, NotImplementedError), match='IEBatchNorm'):
        fuse_modules(model, [['conv1', 'bn1'], ['layer1.0.conv1', 'layer1.0.bn1']])


@networks
def test_to_mkldnn(name):
    with pytest.raises(AssertionError):
        mkldnn.to_mkldnn(network(name))


@layers
def test_to_mkldnn_of_a_layer(layer_class):
    with pytest.raises(AssertionError):
        mkldnn.to_mkldnn(pair(layer_class).eval())


@networks
def test_prune(name):
    model = network(name)
    shapes = '***'.join(f'{k}:[{",".join(map(str, v.shape))}]' for k, v in model.state_dict().items())
    with pytest.raises(KeyError, match=r'\.bn\.weight'):
        adapt_model_from_string(model, shapes)


@networks
def test_reparameterize_changes_nothing(name):
    model, x = network(name), images(2, 1)
    with torch.no_grad():
        expected = model(x)
        assert difference(timm.utils.model.reparameterize_model(model)(x), expected) == 0


@networks
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_fx_fusion_leaves_the_gated_norms(name, training):
    """torch.fx.experimental.optimization.fuse folds the shortcuts' plain norms into their convolutions, no other."""
    model, x = network(name), images(4, 1)
    with torch.no_grad():
        expected = copy.deepcopy(model)(x)
        if training:
            with pytest.raises((AssertionError, RuntimeError)):  # torch's: fusion is for inference
                fuse(model.train())(x)
        else:
            assert difference(fuse(model)(x), expected) < 1e-5
