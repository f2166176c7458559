"""OpenVINO: the graph as XML and the weights beside it, in float32."""
import re
from pathlib import Path
from typing import List, Mapping, Sequence
from xml.etree import ElementTree

import torch
from torch import Tensor, nn

from iebn_zoo.hub.formats.table import INPUT, OUTPUT, import_package
from iebn_zoo.hub.formats.torchscript_file import quietly, traced
from iebn_zoo.util.errors import IEBNZooError, first_line

# without it a CPU with bfloat16 or float16 units computes in those, which rounds the logits to 3 digits
PRECISION = {'INFERENCE_PRECISION_HINT': 'f32'}
# how OpenVINO begins a graph; it reads a file that begins in another way with the reader of another framework
_BEGIN = re.compile(rb'(?:<\?xml version="1\.0"(?: encoding="(?:utf|UTF)-8")?\s*\?>\s*)?<net\b')


def write_openvino(path: Path, model: nn.Module, inputs: Tensor, metadata: Mapping[str, str]) -> None:
    """Write ``model`` with a batch of any number of images of one size.

    Args:
        path: The .xml to write; the .bin stands beside it.
        model: In eval mode, float32, on the CPU.
        inputs: Normalized images (B, C, H, W), B at least 2.
        metadata: Becomes ``model_info`` in the ``rt_info`` of the file.

    Raises:
        Exception: Of torch or openvino, where the network cannot be written.
    """
    openvino = import_package('openvino')
    with torch.no_grad(), quietly():
        made = openvino.convert_model(traced(model, inputs), example_input=inputs, input=[-1, *inputs.shape[1:]])
    made.inputs[0].get_tensor().set_names({INPUT})
    made.outputs[0].get_tensor().set_names({OUTPUT})
    for name, value in metadata.items():
        made.set_rt_info(value, ['model_info', name])
    openvino.save_model(made, str(path), compress_to_fp16=False)


def run_openvino(path: Path, batches: Sequence[Tensor]) -> List[Tensor]:
    """Run the files in OpenVINO on batches (B, C, H, W), in float32, and return the logits (B, num_classes) of each.

    Args:
        path: The .xml; the .bin of the same name holds the weights. They may come from a stranger, so OpenVINO is
            given the bytes that were checked, and no path.
        batches: Normalized images.

    Raises:
        IEBNZooError: The .xml is not a graph of OpenVINO.
        Exception: Of openvino, where they cannot be run.
    """
    graph = _checked_graph(path)
    core = import_package('openvino').Core()
    network = core.read_model(graph, path.with_suffix('.bin').read_bytes())
    compiled = core.compile_model(network, 'CPU', PRECISION)
    return [torch.from_numpy(compiled({INPUT: batch.numpy()})[OUTPUT].copy()) for batch in batches]


def _checked_graph(path: Path) -> bytes:
    """Return the content of a .xml file that is a graph of OpenVINO and nothing else.

    OpenVINO looks at the content, not at the name: it would read an ONNX file of this name, whose tensors may lie in
    any file of this machine.
    """
    content = path.read_bytes()
    begin = _BEGIN.match(content)
    try:
        if begin is None:
            raise ValueError('it does not begin with <net')
        for mark in (b'<!', b'<?', b'\0'):  # a document type, an entity, another instruction, another encoding
            if mark in content[begin.end():]:
                raise ValueError(f'{mark.decode()!r} is in it')
        if ElementTree.fromstring(content.decode('utf-8')).tag != 'net':
            raise ValueError('its root is not <net>')
    except (ElementTree.ParseError, ValueError) as e:
        raise IEBNZooError(f'{path} is not a graph of OpenVINO ({first_line(e, 100)}). It was not run.\n'
                           f'Expected XML with the root <net>, as an export writes it. Export again.') from e
    return content
