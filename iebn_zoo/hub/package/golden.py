"""golden.safetensors: what the weights computed when they were exported, and the files that were exported with them.

It travels with the weights, so that anybody can check that a download computes what was trained. Tensors:

- ``input`` (2, C, H, W) float32, already normalized, and ``logits`` (2, num_classes): they check the network;
- ``image`` (h, w, C) uint8, ``image_input`` (C, H, W) float32, what the preprocessing makes of it, and ``image_logits``
  (num_classes,): they check the way from pixels to a class. They are absent unless C is 1 or 3.

Metadata: ``layout``; ``top1_label``, the name of the largest of ``image_logits``; ``label_names_sha256``;
``preprocessing``, the values themselves, so that a message can name the one that differs; ``files``, the sha256 of
every other file of the export (for the card see ``file_digest``); and ``seal``, the sha256 of all of this, so that a
changed bit in this file shows too. A seal is no signature: anybody who changes files on purpose can write a new one.
"""
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Union

import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

from iebn_zoo.data.formats import IMAGE_MODES
from iebn_zoo.hub.card.mark import card_digest
from iebn_zoo.util.errors import IEBNZooError, kind_and_line

GOLDEN, CARD = 'golden.safetensors', 'README.md'
# Another CPU, thread count or torch orders the sums differently: about 1e-6 of the largest logit in float32, and more
# in deeper networks. Wrong weights, a random head or a missing gate are off by the size of the logits themselves.
TOLERANCE = 1e-4
PREPROCESSING = ('input_size', 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')
_LAYOUT = '2'
_IMAGE_SIZE = (48, 40)  # a shape that no network takes, so that the effect of resizing and cropping shows


@dataclass(frozen=True)
class Golden:
    """The file's content; see the module for the shapes.

    Attributes:
        input: Normalized inputs.
        logits: Logits of ``input``.
        bound: Whether the rest is there; exports of older versions have only the two above.
        image: The image, or None.
        image_input: ``image`` after preprocessing, or None.
        image_logits: Logits of ``image_input``, or None.
        top1_label: Name of the class with the largest of ``image_logits``, or None where the classes have no names.
        label_names_sha256: See ``label_digest``.
        preprocessing: Values by name, as in ``PREPROCESSING``.
        files: Hex digest of each other file of the export, by its name.
    """

    input: Tensor
    logits: Tensor
    bound: bool = False
    image: Optional[Tensor] = None
    image_input: Optional[Tensor] = None
    image_logits: Optional[Tensor] = None
    top1_label: Optional[str] = None
    label_names_sha256: str = ''
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


def golden_input(input_size: Sequence[int]) -> Tensor:
    """Return two fixed inputs (2, C, H, W): noise of the scale of a normalized image, since any input will do."""
    return torch.randn(2, *input_size, generator=torch.Generator().manual_seed(0))


def label_digest(label_names: Optional[Sequence[str]]) -> str:
    """Return the hex sha256 of the names of the classes in their order."""
    names = None if label_names is None else list(label_names)
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def file_digest(path: Union[str, Path]) -> str:
    """Return the hex sha256 of a file; for the card ``card_digest``, which ignores the name of the repository."""
    if Path(path).name == CARD:
        return card_digest(Path(path).read_text(encoding='utf-8'))
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def preprocessing_of(data_config: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the settings that prepare an image, as JSON gives them back. The default crop mode is center."""
    values = {name: data_config.get(name) for name in PREPROCESSING}
    return json.loads(json.dumps({**values, 'crop_mode': values['crop_mode'] or 'center'}))


def prepared(pixels: Tensor, data_config: Mapping[str, Any]) -> Tensor:
    """Return what evaluation makes of an image.

    Args:
        pixels: The image, uint8 (h, w, C), C = 1 or 3; it is taken as one that a user opens.
        data_config: Input settings, as timm resolves them.

    Returns:
        float32 (C, H, W), normalized.
    """
    image = Image.fromarray((pixels[:, :, 0] if IMAGE_MODES[pixels.shape[2]] == 'L' else pixels).numpy())
    transform = create_transform(**data_config, is_training=False)
    assert not isinstance(transform, tuple)  # create_transform makes a tuple with separate=True only
    made = transform(image)
    assert isinstance(made, Tensor)
    return made.contiguous()


def write_golden(
        directory: Path,
        model: nn.Module,
        data_config: Mapping[str, Any],
        label_names: Optional[Sequence[str]],
) -> None:
    """Write golden.safetensors over the files of ``directory``, which must all be there.

    Args:
        directory: Directory of the export.
        model: Network in eval mode, on the CPU, with the weights that stand in the directory.
        data_config: Input settings of the training, not those of config.json.
        label_names: Names of the classes in order, or None.
    """
    preprocessing = preprocessing_of(data_config)
    tensors = {'input': golden_input(preprocessing['input_size'])}
    with torch.inference_mode():
        tensors['logits'] = model(tensors['input']).clone()
        top = None
        channels = preprocessing['input_size'][0]
        if channels in IMAGE_MODES:
            image = torch.randint(0, 256, (*_IMAGE_SIZE, channels), generator=torch.Generator().manual_seed(1),
                                  dtype=torch.uint8)
            transformed = prepared(image, preprocessing)
            tensors.update(image=image, image_input=transformed, image_logits=model(transformed[None])[0].clone())
            top = int(tensors['image_logits'].argmax())
    label = label_names[top] if label_names and top is not None else None
    files = {path.name: file_digest(path) for path in sorted(directory.iterdir()) if path.name != GOLDEN}
    metadata = {
        'format': 'pt', 'layout': _LAYOUT, 'top1_label': json.dumps(label),
        'label_names_sha256': label_digest(label_names or None), 'preprocessing': json.dumps(preprocessing),
        'files': json.dumps(files)}
    save_golden(directory / GOLDEN, tensors, metadata)


def save_golden(path: Path, tensors: Dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the file with a seal over ``tensors`` and ``metadata``."""
    safetensors.torch.save_file(tensors, path, {**metadata, 'seal': _seal(tensors, metadata)})


def rebind_card(directory: Path) -> None:
    """Bind README.md of ``directory`` as it now is, because its template has changed; all else stays bound as it was.

    Raises:
        IEBNZooError: golden.safetensors is damaged.
    """
    path = directory / GOLDEN
    golden = read_golden(path)  # it checks the seal
    with safe_open(path, framework='pt') as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    metadata.pop('seal', None)
    metadata['files'] = json.dumps({**golden.files, CARD: file_digest(directory / CARD)})
    save_golden(path, tensors, metadata)
    path.chmod((directory / CARD).stat().st_mode)  # safetensors makes files that nobody else may read


def read_golden(path: Union[str, Path]) -> Golden:
    """Read golden.safetensors, of this or an older layout.

    Raises:
        IEBNZooError: It is no safetensors file, was changed since it was written, or lacks a tensor, or a tensor has an
            impossible shape or value.
    """
    try:
        with safe_open(path, framework='pt') as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a handle does not iterate
    except Exception as e:
        raise IEBNZooError(f'{path} cannot be read ({kind_and_line(e)}).\nExport the run again.') from e
    bound = set(metadata) - {'format'} != set() or any(name.startswith('image') for name in tensors)
    names = ['input', 'logits', *(['image', 'image_input', 'image_logits'] if 'image' in tensors else [])]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise IEBNZooError(
            f'{path} has no tensor {missing[0]!r}; it holds {sorted(tensors)}.\n'
            f'Expected input (B, C, H, W) and logits (B, num_classes). Export the run again.'
        )
    if bound and not _sealed(tensors, metadata):
        raise IEBNZooError(f'{path} is not as it was written: its own digest (seal) differs.\n'
                           f'Expected golden.safetensors of an export, unchanged. Download or export it again.')
    _check_tensors(path, tensors)
    golden = Golden(tensors['input'].float(), tensors['logits'].float())
    return _bound(path, golden, tensors, metadata) if bound else golden


def _check_tensors(path: Union[str, Path], tensors: Mapping[str, Tensor]) -> None:
    inputs, logits = tensors['input'], tensors['logits']
    if inputs.ndim != 4 or logits.ndim != 2 or len(inputs) != len(logits) or not len(inputs):
        raise IEBNZooError(
            f'{path} holds input {tuple(inputs.shape)} and logits {tuple(logits.shape)}.\n'
            f'Expected input (B, C, H, W) and logits (B, num_classes). Export the run again.'
        )
    if not (torch.isfinite(inputs).all() and torch.isfinite(logits).all()):
        raise IEBNZooError(f'{path} holds values that are not finite.\nExport a checkpoint that did not diverge.')
    if 'image' in tensors:
        image, image_input, image_logits = (tensors[name] for name in ('image', 'image_input', 'image_logits'))
        fits = (image.dtype == torch.uint8 and image.ndim == 3 and image.shape[2] in IMAGE_MODES
                and image_input.shape == inputs.shape[1:] and image_logits.shape == logits.shape[1:])
        if not fits:
            raise IEBNZooError(
                f'{path} holds an image {tuple(image.shape)} with input {tuple(image_input.shape)} and logits '
                f'{tuple(image_logits.shape)}.\nExpected uint8 (h, w, C), (C, H, W) and (num_classes,). '
                f'Export the run again.')


def _bound(
        path: Union[str, Path],
        golden: Golden,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, str],
) -> Golden:
    try:
        if metadata['layout'] != _LAYOUT:
            raise ValueError(f'layout {metadata["layout"][:20]!r} is of another version of iebn-zoo')
        label, files = json.loads(metadata['top1_label']), json.loads(metadata['files'])
        preprocessing = json.loads(metadata['preprocessing'])
        if not isinstance(files, dict) or not isinstance(preprocessing, dict):
            raise ValueError('files and preprocessing are no objects')
        return Golden(
            golden.input, golden.logits, True, tensors.get('image'), tensors.get('image_input'),
            tensors.get('image_logits'), label, metadata['label_names_sha256'], preprocessing, files)
    except (KeyError, ValueError, RecursionError) as e:
        raise IEBNZooError(f'{path}: its metadata cannot be read ({kind_and_line(e)}).\nExport the run again.') from e


def _sealed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
    return metadata.get('seal') == _seal(tensors, {k: v for k, v in metadata.items() if k != 'seal'})


def _seal(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f'{name} {tensor.dtype} {list(tensor.shape)}\n'.encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
