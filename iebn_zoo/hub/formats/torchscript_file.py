"""TorchScript: the network as a trace that torch runs without timm and without this package."""
import json
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List, Mapping, Sequence

import torch
from torch import Tensor, nn

from iebn_zoo.hub.formats.torchscript_program import check_operators, read_archive
from iebn_zoo.util.errors import IEBNZooError
from iebn_zoo.util.files import atomic_write

METADATA = 'metadata.json'  # a file in the archive, which torch.jit.load gives through _extra_files
_ALIGNMENT = 64  # torch maps a tensor into memory only from a multiple of this
_LIMIT = 2 ** 32 - 2 ** 27  # bytes; a larger archive needs a second directory, which ``read_archive`` refuses


def traced(model: nn.Module, inputs: Tensor) -> Any:
    """Return the trace of a network as a ScriptModule; it takes batches of any number of images.

    Args:
        model: In eval mode, on the CPU.
        inputs: Normalized images (B, C, H, W), B at least 2, because a 1 could be taken for a constant.
    """
    with torch.no_grad(), quietly():
        return torch.jit.trace(model, inputs, check_trace=False)  # pyright: ignore[reportPrivateImportUsage]


def write_torchscript(path: Path, model: nn.Module, inputs: Tensor, metadata: Mapping[str, str]) -> None:
    """Trace ``model`` and write the trace.

    Args:
        path: File to write.
        model: See ``traced``.
        inputs: See ``traced``.
        metadata: Stands as JSON in the file ``metadata.json`` of the archive.

    Raises:
        IEBNZooError: The weights do not fit into such an archive.
        Exception: Of torch, where the network cannot be traced.
    """
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > _LIMIT:
        raise IEBNZooError(f'{path.name} would hold {size / 1e9:.1f} GB of weights.\n'
                           f'Expected at most {_LIMIT / 1e9:.1f} GB, the limit of an archive with one directory. '
                           f'Leave torchscript out of --formats.')
    trace = traced(model, inputs)
    raw = path.with_name(f'{path.name}.raw')
    try:
        with quietly():
            trace.save(str(raw), _extra_files={METADATA: json.dumps(dict(metadata))})
        _copy_without_places(raw, path)
    finally:
        raw.unlink(missing_ok=True)


def run_torchscript(path: Path, batches: Sequence[Tensor], model: nn.Module) -> List[Tensor]:
    """Run the file on batches (B, C, H, W) and return the logits (B, num_classes) of each.

    Args:
        path: The file. It may come from a stranger; its program runs only after ``read_archive`` and
            ``check_operators``.
        batches: Normalized images.
        model: The network that the file is said to hold; it says which operators are allowed.

    Raises:
        IEBNZooError: The program reaches outside, or the file is no such archive.
        OtherOperators: The program has operators that ``model`` has not.
    """
    archive = read_archive(path)
    with torch.no_grad(), quietly():
        program = torch.jit.load(archive, map_location='cpu')  # pyright: ignore[reportPrivateImportUsage]
        check_operators(path, program, traced(model, batches[-1]))
        return [program(batch) for batch in batches]


@contextmanager
def quietly() -> Iterator[None]:
    """Keep back warnings: torch announces the end of TorchScript, and tells of each constant in a trace."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def _copy_without_places(source: Path, target: Path) -> None:
    # the records for debuggers name the files of this machine in which each operator was called
    with zipfile.ZipFile(source) as old, atomic_write(target) as file, zipfile.ZipFile(file, 'w') as new:
        for entry in old.infolist():
            if entry.filename.endswith('.debug_pkl'):
                continue
            made = zipfile.ZipInfo(entry.filename)
            begin = file.tell() + 30 + len(entry.filename.encode()) + 4  # the header, the name, the head of the field
            padding = -begin % _ALIGNMENT
            made.extra = b'FB' + padding.to_bytes(2, 'little') + b'Z' * padding  # the field that torch pads with
            new.writestr(made, old.read(entry))
