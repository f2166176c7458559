"""Proves that files compute what was exported: the one check of an export, a push, a download and a cache.

The check compares everything that golden.safetensors binds, and loads the model through timm as a user does. It looks
first at the settings that timm would misread in silence, then at every byte, then at what the network computes.
"""
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import timm
import torch
from safetensors import safe_open
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from iebn_zoo.hub.card.evaluation_facts import EVALUATION
from iebn_zoo.hub.formats.table import FORMAT_FILES, formats_of
from iebn_zoo.hub.package.golden import (
    CARD,
    GOLDEN,
    TOLERANCE,
    Golden,
    file_digest,
    label_digest,
    prepared,
    preprocessing_of,
    read_golden,
)
from iebn_zoo.hub.package.runtimes import prove_formats
from iebn_zoo.util.errors import IEBNZooError, kind_and_line
from iebn_zoo.weights.config_check import check_config
from iebn_zoo.weights.repository import Repository
from iebn_zoo.weights.settings import cfg_of, label_names_in

WEIGHTS, CONFIG = 'model.safetensors', 'config.json'
CONVERSION_REPORT, FOLD_REPORT = 'conversion.json', 'fold_report.json'
REQUIRED = (WEIGHTS, CONFIG, CARD, GOLDEN)
# every file that an export or a conversion writes
FILES = (CARD, CONFIG, 'curves.png', GOLDEN, WEIGHTS, 'summary.csv', EVALUATION, CONVERSION_REPORT, FOLD_REPORT,
         'fold_report.csv', 'gates.png', *FORMAT_FILES)
# grey levels out of 255; another version of the image library may round a pixel the other way
_GREY_LEVELS = 1.5
_AGAIN = 'Export the run again, or restore the file.'


@dataclass(frozen=True)
class Proof:
    """What was found to agree.

    Attributes:
        config: config.json.
        difference: Largest absolute difference of the golden logits, in logits.
        files: Names of the files of the export, golden.safetensors included.
        edited: Files that somebody edited and may edit: README.md or none.
        image: Whether an image went from its pixels to a class; golden.safetensors holds none for a network that takes
            another number of channels than 1 or 3.
        formats: Largest absolute difference of the logits of each file for another runtime, by its name.
        not_run: For each such file that was not run here, one line that says why.
    """

    config: Dict[str, Any]
    difference: float
    files: Tuple[str, ...]
    edited: Tuple[str, ...]
    image: bool = True
    formats: Mapping[str, float] = field(default_factory=dict)
    not_run: Tuple[str, ...] = ()


def prove(directory: Union[str, Path], name: Optional[str] = None) -> Proof:
    """Check everything that golden.safetensors binds.

    Args:
        directory: Directory with the files of an export, such as a snapshot in a cache.
        name: Name that timm loads, such as ``'hf-hub:OWNER/NAME@COMMIT'``. Default: the directory.

    Raises:
        IEBNZooError: A file is missing or changed, or the model computes something else; the message names which.
    """
    directory = Path(directory)
    shown = name or str(directory)
    for required in REQUIRED:
        if not (directory / required).is_file():  # a FIFO is no file either, and opening it would wait without end
            raise IEBNZooError(
                f'{directory} has no {required}.\nExpected {", ".join(REQUIRED)}. Export the run again.')
    golden = read_golden(directory / GOLDEN)
    config = check_config(directory / CONFIG)
    _check_shapes(directory, golden, config)
    if golden.bound:
        _check_labels(directory, golden, config)
        _check_preprocessing(directory, golden, config)
        edited = _check_files(directory, golden)
    _check_size(directory, config, shown)
    model = _load(name, directory, shown)
    _check_strict(directory, model)
    difference = _compare(shown, 'the logits in golden.safetensors', _logits(model, golden.input, shown), golden.logits)
    if not golden.bound:
        raise IEBNZooError(
            f'{shown} was exported by an older iebn-zoo: its logits agree with {GOLDEN} (within {difference:.1e}), but '
            f'label names, preprocessing and the files cannot be checked, since that file does not bind them.\n'
            f'Expected {GOLDEN} as this version writes it. Export the run again.')
    image = _check_image(shown, golden, model)
    runs = prove_formats(directory, golden, model)
    return Proof(config, difference, (*sorted(golden.files), GOLDEN), edited, image, runs.differences, runs.not_run)


def bound_files(path: Union[str, Path]) -> List[str]:
    """Return the names of the files that a golden.safetensors binds, and its own; without any, those of every export.

    Raises:
        IEBNZooError: It cannot be read, or it names a file that no export writes.
    """
    golden = read_golden(path)
    if not golden.bound:
        return sorted(REQUIRED)
    foreign = sorted(set(golden.files) - (set(FILES) - {GOLDEN}))
    parts = {file for format in formats_of(golden.files) for file in format.files}  # a graph needs its weights
    missing = sorted((set(REQUIRED) - {GOLDEN} | parts) - set(golden.files))
    if foreign or missing:  # the names come from a file, and a path among them could point anywhere
        what = f'binds {foreign[0]!r}, which no export writes' if foreign else f'does not bind {missing[0]}'
        raise IEBNZooError(f'{path} {what}.\nExpected the files of an export. Export the run again.')
    return [*sorted(golden.files), GOLDEN]


def _check_shapes(directory: Path, golden: Golden, config: Mapping[str, Any]) -> None:
    size, classes = config['pretrained_cfg']['input_size'], config['num_classes']
    if list(golden.input.shape[1:]) != size:
        raise IEBNZooError(
            f'{directory / CONFIG}: pretrained_cfg.input_size is {size}, golden input is '
            f'{list(golden.input.shape[1:])}.\nExpected files of one export. Export the run again.'
        )
    if golden.logits.shape[1] != classes:
        raise IEBNZooError(
            f'{directory / CONFIG}: num_classes is {classes}, golden logits have {golden.logits.shape[1]}.\n'
            f'Expected files of one export. Export the run again.'
        )


def _check_labels(directory: Path, golden: Golden, config: Mapping[str, Any]) -> None:
    names = label_names_of(config)
    if label_digest(names) != golden.label_names_sha256:
        shown = 'missing' if names is None else repr(names)
        raise IEBNZooError(
            f'{directory / CONFIG}: label_names is {shown if len(shown) <= 80 else shown[:77] + "..."}.\n'
            f'Expected the names, and their order, with which the weights were exported. {_AGAIN}')


def label_names_of(config: Mapping[str, Any]) -> Optional[List[str]]:
    """Return the names of the classes in config.json, or None."""
    return label_names_in(config.get('label_names', config['pretrained_cfg'].get('label_names')), CONFIG)


def _check_preprocessing(directory: Path, golden: Golden, config: Mapping[str, Any]) -> None:
    actual = preprocessing_of(config['pretrained_cfg'])
    for name, expected in golden.preprocessing.items():
        if actual.get(name) != expected:
            raise IEBNZooError(f'{directory / CONFIG}: pretrained_cfg.{name} is {actual.get(name)!r}.\n'
                               f'Expected {expected!r}, with which the weights were exported. {_AGAIN}')


def _check_files(directory: Path, golden: Golden) -> Tuple[str, ...]:
    bound_files(directory / GOLDEN)
    edited = []
    for name, expected in golden.files.items():
        path = directory / name
        if not path.is_file():
            raise IEBNZooError(f'{directory} has no {name}.\nExpected all files of the export. {_AGAIN}')
        try:
            same = file_digest(path) == expected
        except (OSError, ValueError) as e:
            raise IEBNZooError(f'{path} cannot be read ({kind_and_line(e)}).\n{_AGAIN}') from e
        if not same and name != CARD:
            raise IEBNZooError(f'{path} is not the file that was exported: its sha256 differs from that in {GOLDEN}.\n'
                               f'Expected the files of one export, unchanged. {_AGAIN}')
        if not same:
            edited.append(name)
    return tuple(edited)


def _check_size(directory: Path, config: Dict[str, Any], shown: str) -> None:
    try:
        with safe_open(directory / WEIGHTS, framework='pt') as file:
            state = {key: torch.empty(file.get_slice(key).get_shape(), device='meta')
                     for key in file.keys()}  # noqa: SIM118  it is no dict
    except Exception:  # loading will say what is wrong with the file
        return
    Repository(shown, directory, config).check_size(state, {}, shown)


def _load(name: Optional[str], directory: Path, shown: str) -> nn.Module:
    with _alone(directory) if name is None else _named(name) as source:
        try:
            return timm.create_model(source, pretrained=True).float().eval()
        except Exception as e:
            raise IEBNZooError(
                f'{shown} does not load and run through timm ({kind_and_line(e)}).\n'
                f'Expected weights and config.json that belong together. Export the run again.') from e


@contextmanager
def _named(name: str) -> Iterator[str]:
    yield name


@contextmanager
def _alone(directory: Path) -> Iterator[str]:
    # timm before 1.0.29 fails on a local-dir with two .safetensors; from the Hub it takes these two files by name
    with tempfile.TemporaryDirectory(prefix='iebn-zoo-check-') as alone:
        for name in (WEIGHTS, CONFIG):
            try:
                os.symlink((directory / name).resolve(), Path(alone) / name)
            except OSError:  # a file system, or a Windows, without links
                shutil.copyfile(directory / name, Path(alone) / name)
        yield f'local-dir:{alone}'


def _check_strict(directory: Path, model: nn.Module) -> None:
    # if a config asks timm for a loose fit, missing tensors keep random values
    with safe_open(directory / WEIGHTS, framework='pt') as file:
        odd = sorted(set(file.keys()) ^ set(model.state_dict()))
    if odd:
        raise IEBNZooError(
            f'{directory / WEIGHTS} does not fit the model that {CONFIG} describes: {odd[0]} is in only one of them.\n'
            f'Expected weights and config.json that belong together. Export the run again.')


def _logits(model: nn.Module, inputs: Tensor, shown: str) -> Tensor:
    try:
        with torch.inference_mode():
            return model(inputs)
    except Exception as e:
        raise IEBNZooError(
            f'{shown} does not load and run through timm ({kind_and_line(e)}).\n'
            f'Expected weights and config.json that belong together. Export the run again.') from e


def _compare(shown: str, what: str, actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        raise IEBNZooError(
            f'{shown} gives logits of shape {tuple(actual.shape)}, golden.safetensors has {tuple(expected.shape)}.\n'
            f'Expected files of one export. Export the run again.'
        )
    difference = (actual - expected).abs().max().item()
    allowed = TOLERANCE * max(expected.abs().max().item(), 1e-3)
    if not difference <= allowed:
        raise IEBNZooError(
            f'{shown} does not compute {what}: they differ by {difference:.3g}, at most {allowed:.3g} is rounding.\n'
            f'Expected weights, config.json and golden.safetensors of one export. Export the run again.'
        )
    return difference


def _check_image(shown: str, golden: Golden, model: nn.Module) -> bool:
    """Check the way from the pixels of the image in golden.safetensors to a class; return False if it holds none."""
    if golden.image is None or golden.image_input is None or golden.image_logits is None:
        return False
    data = resolve_model_data_config(model)
    actual = prepared(golden.image, data)
    grey = torch.tensor(data['std']).view(-1, 1, 1) * 255
    if actual.shape != golden.image_input.shape or ((actual - golden.image_input).abs() * grey).max() > _GREY_LEVELS:
        raise IEBNZooError(
            f'{shown} prepares an image in another way than the one in {GOLDEN} was prepared.\n'
            f'Expected the preprocessing with which the weights were exported. Export the run again.')
    logits = _logits(model, golden.image_input[None], shown)
    _compare(shown, f'the logits of the image in {GOLDEN}', logits, golden.image_logits[None])
    names = label_names_of({'pretrained_cfg': cfg_of(model)})
    label = names[int(golden.image_logits.argmax())] if names else None
    if label != golden.top1_label:
        raise IEBNZooError(
            f'{shown} calls the image in {GOLDEN} {label!r}; it was {golden.top1_label!r} when it was exported.\n'
            f'Expected the label names of the export, in their order. Export the run again.')
    return True


def check_distinct(names: Optional[Sequence[str]], where: str) -> None:
    """Raise IEBNZooError if two classes have one name, since no answer could tell them apart."""
    first: Dict[str, int] = {}
    for index, name in enumerate(names or ()):
        if name in first:
            raise IEBNZooError(f'{where}: label_names has {name[:60]!r} for class {first[name]} and class {index}.\n'
                               f'Expected a name of its own for each class. Rename one, such as "crane (bird)".')
        first[name] = index
