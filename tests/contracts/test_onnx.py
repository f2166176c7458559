"""ONNX, by both exporters of torch, run by onnxruntime: the logits of the network, gates included."""
import pytest
import timm.utils.onnx
import torch

from iebn_zoo import IEBatchNorm2d, IEBatchNormAct2d
from iebn_zoo.util.resources import install_line
from tests.support.contracts.networks import NETWORKS, difference, images, network
from tests.support.layers import randomized

pytest.importorskip('onnx', reason=install_line('onnx'))
onnxruntime = pytest.importorskip('onnxruntime', reason=install_line('onnx'))
pytest.importorskip('onnxscript', reason=install_line('onnx'))

pytestmark = pytest.mark.filterwarnings('ignore')  # both exporters tell much about themselves
exporters = pytest.mark.parametrize('dynamo', [True, False], ids=['dynamo', 'torchscript'])


def run(path, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    (name,) = [i.name for i in session.get_inputs()]
    return torch.from_numpy(session.run(None, {name: x.numpy()})[0])


@exporters
@pytest.mark.parametrize('layer_class', [IEBatchNorm2d, IEBatchNormAct2d])
def test_layer(layer_class, dynamo, tmp_path):
    layer, path = randomized(layer_class(3)).eval(), str(tmp_path / 'layer.onnx')
    timm.utils.onnx.onnx_export(layer, path, images(2, 3, 8), use_dynamo=dynamo, dynamic_size=True, external_data=False)
    x = images(5, 1, 11)[:, :, :6]
    assert difference(run(path, x), layer(x)) < 1e-5


@exporters
@pytest.mark.parametrize('name', NETWORKS)
def test_network_with_dynamic_batch_and_size(name, dynamo, tmp_path):
    model, path = network(name), str(tmp_path / 'model.onnx')
    timm.utils.onnx.onnx_export(
        model, path, images(2, 3, 64), use_dynamo=dynamo, dynamic_size=True, external_data=False, check=True)
    for x in (images(1, 1, 64), images(5, 2, 96)[:, :, :40]):
        with torch.no_grad():
            assert difference(run(path, x), model(x)) < 1e-5
