"""int8 by torch.ao's FX graph mode: convolutions become int8, gates and norms stay what they are, in float.

torch has deprecated torch.ao.quantization (PT2E in torchao succeeds it) but still ships it.
"""
import copy

import pytest
import torch
from torch import nn

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from tests.support.contracts.networks import CIFAR, constant_gates, difference, images, network, no_gates
from tests.support.layers import randomized

quantize_fx = pytest.importorskip('torch.ao.quantization.quantize_fx', reason='torch has dropped torch.ao.quantization')
from torch.ao.quantization import get_default_qat_qconfig_mapping, get_default_qconfig_mapping  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings('ignore'),
    pytest.mark.skipif('x86' not in torch.backends.quantized.supported_engines, reason='needs the int8 engine x86')]
layers = pytest.mark.parametrize('layer_class', [IEBatchNorm2d, IEBatchNormAct2d])


def quantized(model, *calibration):
    prepared = quantize_fx.prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping('x86'), (calibration[0][:2],))
    with torch.no_grad():
        for batch in calibration:
            prepared(batch)
    return quantize_fx.convert_fx(prepared)


def test_network_agrees_with_float():
    model, x = network(CIFAR), images(128, 5)
    converted = quantized(model, images(32, 10), images(32, 11))
    assert sum(type(m).__module__.startswith('torch.ao.nn') for m in converted.modules()) >= 9, 'int8 convolutions'
    with torch.no_grad():
        y = model(x)
        results = {label: (m(x).argmax(1) == y.argmax(1)).float().mean().item() for label, m in (
            ('int8', converted), ('constant gates', constant_gates(model)), ('no gates', no_gates(model)))}
        error = ((converted(x) - y).norm() / y.norm()).item()
    print(f'top-1 agreement with float on {len(x)} images: {results}; int8 logits differ by {error:.3f} of their norm')
    assert results['int8'] >= 0.75 and error < 0.2
    assert results['int8'] > max(results['constant gates'], results['no gates']) + 0.1


def test_gates_and_statistics_stay_in_float():
    model = network(CIFAR)
    converted = quantized(model, images(4, 10))
    gates = [n for n in converted.graph.nodes if n.op == 'call_function' and n.target.__name__ == 'gate']
    assert len(gates) == sum(isinstance(m, IEBatchNorm2d) for m in model.modules())
    for node in gates:
        assert [n.op for n in node.args] == ['call_function', 'get_attr', 'get_attr']
        assert node.args[0].target.__name__ == 'instance_mean'
    state = converted.state_dict()
    for key, value in model.state_dict().items():
        if 'gate_' in key or '.bn.running' in key:
            assert torch.equal(state[key], value), key


@layers
def test_layer(layer_class):
    """Between float tensors nothing of the layer is rounded to 8 bits: with no int8 around it, it is exact."""
    layer, x = randomized(layer_class(6)).eval(), torch.randn(4, 6, 5, 5)
    mapping = get_default_qconfig_mapping('x86')
    for module in (nn.Identity, nn.ReLU):  # children behind the norm, which are quantized as anywhere
        mapping.set_object_type(module, None)
    prepared = quantize_fx.prepare_fx(nn.Sequential(copy.deepcopy(layer)), mapping, (x,))
    prepared(x)
    assert difference(quantize_fx.convert_fx(prepared)(x), layer(x)) < 1e-5


@layers
@pytest.mark.parametrize('left_out', [(), (nn.BatchNorm2d,)], ids=['default', 'without_batch_norm'])
def test_quantization_aware_training(layer_class, left_out):
    """The statistics' child stays in float: it has no weight, which torch's int8 norm needs, and another type."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), randomized(layer_class(6)), nn.Conv2d(6, 4, 1)).train()
    mapping = get_default_qat_qconfig_mapping('x86')
    for kind in left_out:
        mapping.set_object_type(kind, None)
    prepared = quantize_fx.prepare_qat_fx(model, mapping, (images(2),))
    prepared(images(8)).square().sum().backward()
    gradients = [p.grad for k, p in prepared.named_parameters() if 'gate_' in k]
    assert len(gradients) == 2 and all(g.abs().sum() > 0 for g in gradients)
    prepared.apply(torch.ao.quantization.disable_observer).eval()
    x = images(4, 1)
    with torch.no_grad():
        expected = prepared(x)
        converted = quantize_fx.convert_fx(prepared)
        assert difference(converted(x), expected) < 0.05
