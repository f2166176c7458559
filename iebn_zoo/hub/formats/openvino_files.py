"""OpenVINO: the graph as XML and the weights beside it, in float32."""
from pathlib import Path
from typing import List, Mapping, Sequence

import torch
from torch import Tensor, nn

from iebn_zoo.hub.formats.table import INPUT, OUTPUT, import_package
from iebn_zoo.hub.formats.torchscript_file import quietly, traced

# without it a CPU with bfloat16 or float16 units computes in those, which rounds the logits to 3 digits
PRECISION = {'INFERENCE_PRECISION_HINT': 'f32'}


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
        path: The .xml; the .bin of the same name holds the weights.
        batches: Normalized images.

    Raises:
        Exception: Of openvino, where they cannot be run.
    """
    core = import_package('openvino').Core()
    network = core.read_model(str(path), str(path.with_suffix('.bin')))
    compiled = core.compile_model(network, 'CPU', PRECISION)
    return [torch.from_numpy(compiled({INPUT: batch.numpy()})[OUTPUT].copy()) for batch in batches]
