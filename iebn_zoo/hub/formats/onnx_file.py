"""ONNX: one file with the weights inside, for onnxruntime and everything else that reads ONNX."""
import logging
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Iterator, List, Mapping, Sequence

import torch
from torch import Tensor, nn

from iebn_zoo.hub.formats.table import INPUT, OUTPUT, import_package
from iebn_zoo.hub.formats.torchscript_file import quietly
from iebn_zoo.util.errors import IEBNZooError

_LIMIT = 2 ** 31 - 2 ** 27  # bytes; a file of protobuf ends at 2 GiB, and the graph needs some of it
_ERRORS_ONLY = 3  # of onnxruntime's levels


def write_onnx(path: Path, model: nn.Module, inputs: Tensor, metadata: Mapping[str, str]) -> None:
    """Write ``model`` with a batch of any number of images of one size.

    torch's exporter by tracing goes first, because it takes a second; where it fails, the one by torch.export follows.

    Args:
        path: File to write.
        model: In eval mode, float32, on the CPU.
        inputs: Normalized images (B, C, H, W), B at least 2.
        metadata: Becomes ``metadata_props`` of the file.

    Raises:
        IEBNZooError: The weights do not fit into one file.
        Exception: Of torch or onnx, where the network cannot be written.
    """
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > _LIMIT:
        raise IEBNZooError(f'{path.name} would hold {size / 1e9:.1f} GB of weights.\n'
                           f'Expected at most {_LIMIT / 1e9:.1f} GB, the limit of one ONNX file. '
                           f'Leave onnx out of --formats.')
    onnx = import_package('onnx')
    with torch.no_grad(), _silently():
        try:
            torch.onnx.export(
                model, (inputs,), str(path), dynamo=False, input_names=[INPUT], output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: 'batch'}, OUTPUT: {0: 'batch'}})
        except Exception as first:  # the exporter has many kinds of errors
            try:
                torch.onnx.export(
                    model, (inputs,), str(path), dynamo=True, external_data=False, input_names=[INPUT],
                    output_names=[OUTPUT], dynamic_shapes=({0: torch.export.Dim.AUTO},))
            except Exception:
                raise first from None
        written = onnx.load(str(path))
        _remove_places(written)
        onnx.helper.set_model_props(written, dict(metadata))
        onnx.save(written, str(path))
        onnx.checker.check_model(str(path))


def run_onnx(path: Path, batches: Sequence[Tensor]) -> List[Tensor]:
    """Run the file in onnxruntime on batches (B, C, H, W) and return the logits (B, num_classes) of each.

    Args:
        path: The file. It may come from a stranger, so one that points to other files is refused.
        batches: Normalized images.

    Raises:
        IEBNZooError: The file points to another file.
        Exception: Of onnx or onnxruntime, where it cannot be run.
    """
    onnx, onnxruntime = import_package('onnx'), import_package('onnxruntime')
    content = path.read_bytes()  # what is checked is what runs
    for message in _messages(onnx.load_from_string(content)):
        if isinstance(message, onnx.TensorProto) and (
                message.data_location == onnx.TensorProto.EXTERNAL or message.external_data):
            raise IEBNZooError(f'{path} takes a tensor from another file. It was not run.\n'
                               f'Expected one file that holds its weights, as an export writes it. Export again.')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), _ERRORS_ONLY
    session = onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    return [torch.from_numpy(session.run([OUTPUT], {INPUT: batch.numpy()})[0]) for batch in batches]


def _remove_places(model: Any) -> None:
    # the exporter by torch.export writes the lines of this machine's files in which each operator was called
    for message in _messages(model):
        for field in ('doc_string', 'metadata_props'):
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)


def _messages(message: Any) -> Iterator[Any]:
    """Give a protobuf message and all messages inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if hasattr(value, '__len__') else [value]:
                yield from _messages(inner)


@contextmanager
def _silently() -> Iterator[None]:
    # the exporters print and log what they do; what goes wrong comes as an exception
    was = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with quietly(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(was)
