"""Checks an export directory before anything leaves the machine."""
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Union

import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

from iebn_zoo.errors import IEBNZooError, UsageError
from iebn_zoo.hub.config_check import check_config
from iebn_zoo.hub.golden import GOLDEN, compare, first_line, read_golden

WEIGHTS, CONFIG, CARD = 'model.safetensors', 'config.json', 'README.md'
CONVERSION_REPORT, FOLD_REPORT = 'conversion.json', 'fold_report.json'
REQUIRED = (WEIGHTS, CONFIG, CARD, GOLDEN)
_WEIGHT_SUFFIXES = ('.safetensors', '.bin', '.pt', '.pth', '.tar', '.ckpt', '.pkl', '.h5', '.msgpack')


@dataclass(frozen=True)
class LocalFile:
    """A file that goes to the Hub, with the two digests by which the Hub names contents."""

    path: str
    source: Path
    size: int
    sha256: str
    git_oid: str


@dataclass(frozen=True)
class Checked:
    """What ``check_directory`` found: the files in order of their names, the configuration, the logits' difference."""

    files: List[LocalFile]
    config: Dict[str, Any]
    difference: float


def check_directory(directory: Union[str, Path]) -> Checked:
    """Check that ``directory`` is a complete and working Hub repository.

    Everything in it goes to the Hub except names that begin with a dot.

    Raises:
        UsageError: Not a directory.
        IEBNZooError: A file is missing, damaged, or does not belong; the message names it.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UsageError(
            f'{directory} is not a directory.\n'
            f'Expected what export writes: a directory with {", ".join(REQUIRED)}.'
        )
    for name in REQUIRED:
        if not (directory / name).is_file():
            raise IEBNZooError(f'{directory} has no {name}.\nExpected {", ".join(REQUIRED)}. Export the run again.')
    paths = _listing(directory)
    for path in paths:
        if path.endswith(_WEIGHT_SUFFIXES) and path not in (WEIGHTS, GOLDEN):
            raise IEBNZooError(
                f'{directory} holds {path}, a second file of weights that nobody has checked.\n'
                f'Expected {WEIGHTS} alone. Move {path} out of the directory.'
            )
    files = [_digest(directory, path) for path in paths]
    config = check_config(directory / CONFIG)
    _check_card(directory / CARD)
    _check_weights(directory / WEIGHTS)
    _check_golden(directory / GOLDEN, config)
    return Checked(files, config, _compare(directory))


def sha256_of(path: Union[str, Path]) -> str:
    """Hex sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _compare(directory: Path) -> float:
    # timm before 1.0.29 fails on a local-dir with two .safetensors; from the Hub it takes these two files by name
    with tempfile.TemporaryDirectory(prefix='iebn-zoo-check-') as alone:
        for name in (WEIGHTS, CONFIG):
            try:
                os.symlink((directory / name).resolve(), Path(alone) / name)
            except OSError:  # a file system, or a Windows, without links
                shutil.copyfile(directory / name, Path(alone) / name)
        return compare(f'local-dir:{alone}', directory / GOLDEN, shown=str(directory))


def _listing(directory: Path) -> List[str]:
    paths = []
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith('.')]
        paths += [(Path(folder) / name).relative_to(directory).as_posix() for name in names if not name.startswith('.')]
    return sorted(paths)


def _digest(directory: Path, path: str) -> LocalFile:
    source = directory / path
    try:
        size = source.stat().st_size
        git = hashlib.sha1(b'blob %d\0' % size)
        with open(source, 'rb') as file:
            while block := file.read(1 << 20):
                git.update(block)
        return LocalFile(path, source, size, sha256_of(source), git.hexdigest())
    except OSError as e:
        raise IEBNZooError(f'{source} cannot be read ({e.strerror}).\nExpected readable files only.') from e


def _check_card(path: Path) -> None:
    try:
        card = ModelCard(path.read_text(encoding='utf-8'))
    except Exception as e:
        raise IEBNZooError(f'{path}: its metadata does not parse ({first_line(e)}).\nExport the run again.') from e
    if card.data.library_name != 'timm':
        raise IEBNZooError(
            f'{path}: library_name is {card.data.library_name!r}.\n'
            f"Expected 'timm' in the metadata block at its top, so that the Hub shows how to load it."
        )
    # what was converted or folded comes with another measurement than accuracy
    converted = any((path.parent / name).is_file() for name in (CONVERSION_REPORT, FOLD_REPORT))
    if not card.data.eval_results and not converted:
        raise IEBNZooError(
            f'{path}: the metadata has no model-index.\n'
            f'Expected the results of the run there, as export writes them. Export the run again.'
        )


def _check_weights(path: Path) -> None:
    try:
        with safe_open(path, framework='pt') as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors handle is not iterable
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    raise IEBNZooError(
                        f'{path}: tensor {name} holds values that are not finite.\n'
                        f'Expected a checkpoint that did not diverge. Export one of an earlier epoch.'
                    )
    except IEBNZooError:
        raise
    except Exception as e:
        raise IEBNZooError(f'{path} cannot be read as safetensors ({first_line(e)}).\nExport the run again.') from e


def _check_golden(path: Path, config: Dict[str, Any]) -> None:
    inputs, logits = read_golden(path)
    size, classes = config['pretrained_cfg']['input_size'], config['num_classes']
    if list(inputs.shape[1:]) != size:
        raise IEBNZooError(
            f'{path.parent / CONFIG}: pretrained_cfg.input_size is {size}, golden input is {list(inputs.shape[1:])}.\n'
            f'Expected files of one export. Export the run again.'
        )
    if logits.shape[1] != classes:
        raise IEBNZooError(
            f'{path.parent / CONFIG}: num_classes is {classes}, golden logits have {logits.shape[1]}.\n'
            f'Expected files of one export. Export the run again.'
        )
