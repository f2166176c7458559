"""What turns a whole network into a graph: TorchScript, torch.export, FX, timm's FX features."""
import copy

import pytest
import timm
import torch
from timm.models import FeatureGraphNet
from torch import nn
from torch.export import Dim, export

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from tests.support.contracts.networks import CIFAR, NETWORKS, create, difference, images, network
from tests.support.layers import randomized

networks = pytest.mark.parametrize('name', NETWORKS)
layers = pytest.mark.parametrize('layer_class', [IEBatchNorm2d, IEBatchNormAct2d])
pytestmark = pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::DeprecationWarning')


def trace(model):
    return torch.jit.trace(model, images(2, 3))


@networks
@pytest.mark.parametrize('compile_', [torch.jit.script, trace], ids=['script', 'trace'])
def test_torchscript(name, compile_, tmp_path):
    """As compiled, saved and loaded, frozen, and optimized for inference; other batches than the traced one."""
    model = network(name)
    with torch.no_grad():
        compiled = compile_(copy.deepcopy(model))
        torch.jit.save(compiled, str(tmp_path / 'model.pt'))
        loaded = torch.jit.load(str(tmp_path / 'model.pt'))
        frozen = torch.jit.freeze(compiled)
        for graph in (compiled, loaded, frozen, torch.jit.optimize_for_inference(frozen)):
            for batch in (images(3, 1), images(1, 2), images(3, 4)):  # the second call runs the optimized plan
                assert difference(graph(batch), model(batch)) < 1e-5


@networks
def test_scripted_network_trains(name):
    model, x = network(name).train(), images(8, 1)
    scripted = torch.jit.script(copy.deepcopy(model))
    for m in (model, scripted):
        m(x).square().sum().backward()
    gradients = dict(model.named_parameters())
    for key, parameter in scripted.named_parameters():
        assert difference(parameter.grad, gradients[key].grad) < 1e-3, key
    for key, value in model.state_dict().items():
        torch.testing.assert_close(scripted.state_dict()[key], value, atol=1e-4, rtol=1e-4, msg=key)


@networks
def test_export_with_dynamic_batch_and_size(name):
    model = network(name)
    shapes = {0: Dim('batch', min=1, max=64), 2: Dim('height', min=33, max=256), 3: Dim('width', min=33, max=256)}
    program = export(model, (images(2, 1, 64),), dynamic_shapes=(shapes,)).module()
    with torch.no_grad():
        for x in (images(1, 2, 64), images(5, 3, 97), images(3, 4, 128)[:, :, :33]):
            assert difference(program(x), model(x)) < 1e-5


@layers
def test_export_of_a_layer_with_dynamic_batch_and_size(layer_class):
    layer = randomized(layer_class(6)).eval()
    shapes = {0: Dim('batch'), 2: Dim('height'), 3: Dim('width')}
    program = export(layer, (torch.randn(4, 6, 5, 7),), dynamic_shapes=(shapes,)).module()
    for shape in ((2, 6, 9, 3), (1, 6, 4, 11), (7, 6, 2, 2)):
        x = torch.randn(shape)
        assert difference(program(x), layer(x)) < 1e-5


@networks
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_symbolic_trace(name, training):
    model, x = network(name).train(training), images(4, 1)
    traced = torch.fx.symbolic_trace(copy.deepcopy(model))
    assert sum(n.op == 'get_attr' and str(n.target).endswith('gate_weight') for n in traced.graph.nodes) == sum(
        isinstance(m, IEBatchNorm2d) for m in model.modules())
    with torch.no_grad():
        assert difference(traced(x), model(x)) < 1e-5


@networks
def test_timm_s_feature_graph(name):
    model, x = network(name), images(2, 1)
    features = FeatureGraphNet(copy.deepcopy(model), out_indices=(1, 2)).eval()
    leaves = [m for m in features.modules() if isinstance(m, IEBatchNorm2d)]
    assert leaves and all(type(m) in (IEBatchNorm2d, IEBatchNormAct2d) for m in leaves)
    with torch.no_grad():
        for a, b in zip(features(x), model.forward_intermediates(x, [1, 2], intermediates_only=True), strict=True):
            assert difference(a, b) < 1e-5


def test_timm_s_scripted_option():
    """create_model(scriptable=True, exportable=True), and timm's fast norm switch, change nothing."""
    model = network(CIFAR)
    other = create(CIFAR, scriptable=True, exportable=True).eval()
    other.load_state_dict(model.state_dict())
    x = images(2, 1)
    was = timm.layers.is_fast_norm()
    try:
        timm.layers.set_fast_norm(True)
        with torch.no_grad():
            assert difference(torch.jit.script(other)(x), model(x)) < 1e-5
    finally:
        timm.layers.set_fast_norm(was)


def test_compiled_training_step():
    torch._dynamo.reset()
    model, x = network(CIFAR).train(), images(4, 1)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend='aot_eager')
    for m in (model, compiled):
        m(x).square().sum().backward()
    gradients = [p.grad for p in compiled.parameters()]
    for (key, p), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert difference(gradient, p.grad) < 1e-3, key
    torch._dynamo.reset()


@layers
def test_inside_a_sequential(layer_class):
    """Every way at once, around one layer between convolutions."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), randomized(layer_class(6)), nn.Conv2d(6, 4, 1)).eval()
    x = images(3, 1, 9)
    graphs = (torch.jit.script, trace, torch.fx.symbolic_trace, lambda m: export(m, (x,)).module())
    with torch.no_grad():
        for graph in graphs:
            assert difference(graph(copy.deepcopy(model))(x), model(x)) < 1e-5
