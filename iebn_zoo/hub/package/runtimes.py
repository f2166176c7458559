"""Writes the files for other runtimes into an export, and proves that they compute the golden logits."""
import copy
import json
import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import torch
from torch import Tensor, nn

from iebn_zoo.hub.card.format_facts import FormatFacts
from iebn_zoo.hub.card.network_facts import NetworkFacts
from iebn_zoo.hub.formats.onnx_file import run_onnx, write_onnx
from iebn_zoo.hub.formats.openvino_files import run_openvino, write_openvino
from iebn_zoo.hub.formats.table import Format, formats_of, missing_packages, runtime_of
from iebn_zoo.hub.formats.torchscript_file import run_torchscript, write_torchscript
from iebn_zoo.hub.formats.torchscript_program import OtherOperators
from iebn_zoo.hub.package.golden import TOLERANCE, Golden, golden_input, preprocessing_of
from iebn_zoo.util.errors import IEBNZooError, kind_and_line

_WRITERS = {'onnx': write_onnx, 'torchscript': write_torchscript, 'openvino': write_openvino}
# a runtime may round this many times as much as torch, and still compute the same
_ROUNDINGS = 10


@dataclass(frozen=True)
class Runs:
    """What the runtimes gave.

    Attributes:
        differences: Largest absolute difference to the golden logits, by the file that a runtime is given.
        not_run: For each file that was not run, one line that begins with it and says why.
    """

    differences: Dict[str, float] = field(default_factory=dict)
    not_run: Tuple[str, ...] = ()


def write_formats(
        directory: Path,
        model: nn.Module,
        network: NetworkFacts,
        formats: Sequence[Format],
) -> List[FormatFacts]:
    """Write the files of each format and run them.

    Args:
        directory: The directory of the export.
        model: In eval mode, float32, on the CPU, with the weights that stand in the directory.
        network: What ``model`` is; the files say its preprocessing and its classes.
        formats: What ``chosen_formats`` returned.

    Returns:
        What was measured, for the card.

    Raises:
        IEBNZooError: Logits are not finite, the network cannot be written in a format, or a file computes something
            else; the message names the format and the difference.
    """
    if not formats:
        return []
    inputs = golden_input(network.data_config['input_size'])
    with torch.inference_mode():
        logits = model(inputs).clone()
    if not torch.isfinite(logits).all():
        raise IEBNZooError(f'{network.arch} gives logits that are not finite.\n'
                           f'Expected weights that did not diverge. Export those of an earlier epoch.')
    metadata, facts = _metadata(network), []
    for format in formats:
        try:
            _WRITERS[format.name](directory / format.file, model, inputs, metadata)
        except (IEBNZooError, OSError):
            raise
        except Exception as e:  # each exporter has errors of its own
            raise IEBNZooError(
                f'{format.title} cannot hold {network.arch} {network.model_args}: {kind_and_line(e)}\n'
                f'Expected a network that {format.packages[0]} can write. Leave {format.name} out of --formats.') from e
        try:
            difference = _difference(directory, format, inputs, logits, model)
        except IEBNZooError as e:  # the directory is a temporary one, which nobody will find
            raise type(e)(str(e).replace(f'{directory}{os.sep}', '')) from e
        facts.append(FormatFacts(format.name, format.title, format.files, runtime_of(format), difference,
                                 logits.abs().max().item()))
        print(f'{format.file}: logits in {facts[-1].runtime} differ by at most {difference:.2g}',
              file=sys.stderr, flush=True)
    return facts


def prove_formats(directory: Path, golden: Golden, model: nn.Module) -> Runs:
    """Run the files for other runtimes that golden.safetensors binds, and compare their logits with the golden ones.

    Args:
        directory: The directory of the export; the digests of its files were compared before.
        golden: Its golden.safetensors.
        model: The network of its model.safetensors, in eval mode.

    Returns:
        The differences, and what was not run, because a runtime is not installed here or a TorchScript program was
        written by another version of torch.

    Raises:
        IEBNZooError: A file does not run, or computes something else; the message names it.
    """
    inputs, logits = golden.input, golden.logits
    if golden.image_input is not None and golden.image_logits is not None:
        inputs = torch.cat([inputs, golden.image_input[None]])
        logits = torch.cat([logits, golden.image_logits[None]])
    differences, not_run = {}, []
    for format in formats_of(golden.files):
        reason = missing_packages(format)
        if reason is not None:
            not_run.append(f'{format.file} was not run, because {reason}')
            continue
        try:
            differences[format.file] = _difference(directory, format, inputs, logits, model)
        except OtherOperators as e:
            not_run.append(f'{format.file} was not run: {e}')
    return Runs(differences, tuple(not_run))


def _difference(directory: Path, format: Format, inputs: Tensor, logits: Tensor, model: nn.Module) -> float:
    # one image, all of them, and a batch of another size: an exporter may take the batch that it saw for the only one
    batches = [inputs[:1], inputs, torch.cat([inputs, inputs[:1]])]
    expected = [logits[:1], logits, torch.cat([logits, logits[:1]])]
    path = directory / format.file
    try:
        if format.name == 'torchscript':
            actual = run_torchscript(path, batches, model)
        else:
            actual = (run_onnx if format.name == 'onnx' else run_openvino)(path, batches)
    except (IEBNZooError, OSError):
        raise
    except Exception as e:  # each runtime has errors of its own
        raise IEBNZooError(
            f'{path} does not run in {runtime_of(format)} ({kind_and_line(e)}).\n'
            f'Expected the {format.title} file of the export, and batches of any size. Update {format.packages[-1]}, '
            f'or export again without {format.name}.') from e
    for a, e in zip(actual, expected, strict=True):
        if a.shape != e.shape or a.dtype != e.dtype:
            raise IEBNZooError(
                f'{path} gives {a.dtype} logits of shape {tuple(a.shape)} for {len(e)} images.\n'
                f'Expected {e.dtype} and {tuple(e.shape)}. Export again, or leave {format.name} out of --formats.')
    differences = [(a - e).abs().max().item() for a, e in zip(actual, expected, strict=True)]
    # A runtime merges norms into convolutions and sums in another order. That is rounding as on another CPU, so the
    # tolerance is that of golden.safetensors. Some deep networks enlarge rounding, which float64 shows.
    allowed = TOLERANCE * max(logits.abs().max().item(), 1e-3)
    if not all(difference <= allowed for difference in differences):
        allowed = max(allowed, _ROUNDINGS * _rounding(model, inputs, logits))
    for difference, batch in zip(differences, batches, strict=True):
        if not difference <= allowed:
            raise IEBNZooError(
                f'{path} does not compute the golden logits: in {runtime_of(format)}, with a batch of {len(batch)}, '
                f'they differ by {difference:.3g}.\nExpected at most {allowed:.3g}, which is rounding. '
                f'Export again, or leave {format.name} out of --formats.')
    return max(differences)


def _rounding(model: nn.Module, inputs: Tensor, logits: Tensor) -> float:
    """Return how far the float32 logits are from those in float64; 0 where the network does not run in float64."""
    try:
        with torch.inference_mode():
            exact = copy.deepcopy(model).double()(inputs.double())
        rounding = (exact - logits).abs().max().item()
    except Exception:  # each family fails in its own way
        return 0.
    return rounding if math.isfinite(rounding) else 0.


def _metadata(network: NetworkFacts) -> Dict[str, str]:
    values = {**preprocessing_of(network.data_config), 'label_names': network.label_names}
    return {'architecture': network.arch, **{k: json.dumps(v) for k, v in values.items() if v is not None}}
