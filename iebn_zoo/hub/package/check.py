"""Checks an export directory before anything leaves the machine, and says which of its files may leave."""
import hashlib
import os
import stat
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

from iebn_zoo.hub.formats.table import FORMAT_FILES
from iebn_zoo.hub.package.golden import CARD, GOLDEN
from iebn_zoo.hub.package.proof import (
    CONFIG,
    CONVERSION_REPORT,
    FOLD_REPORT,
    REQUIRED,
    WEIGHTS,
    bound_files,
    check_distinct,
    label_names_of,
    prove,
)
from iebn_zoo.util.errors import IEBNZooError, UsageError, kind_and_line
from iebn_zoo.weights.config_check import check_config

# what may come along unchecked: text, tables and pictures, of which no program makes a network
_HARMLESS = ('.md', '.rst', '.txt', '.log', '.tex', '.bib', '.pdf', '.csv', '.tsv', '.json', '.yaml', '.yml', '.toml',
             '.png', '.jpg', '.jpeg', '.gif', '.webp', '.svg', '.ipynb', '.gitattributes', 'license', 'notice')
_INDEX = '.index.json'  # of weights in several files
_KINDS = {stat.S_IFLNK: 'a symbolic link', stat.S_IFIFO: 'a FIFO', stat.S_IFSOCK: 'a socket',
          stat.S_IFBLK: 'a device', stat.S_IFCHR: 'a device'}


@dataclass(frozen=True)
class LocalFile:
    """A file that goes to the Hub.

    Attributes:
        path: Its path in the repository.
        source: The file on this machine.
        size: Its size in bytes.
        sha256: The digest by which the Hub names a large file.
        git_oid: The digest by which the Hub names a small file.
        content: What is uploaded in place of ``source``, or None.
    """

    path: str
    source: Path
    size: int
    sha256: str
    git_oid: str
    content: Optional[bytes] = None


@dataclass(frozen=True)
class Checked:
    """What ``check_directory`` found.

    Attributes:
        files: The files that go to the Hub, sorted by name.
        config: config.json.
        difference: Largest difference of the golden logits.
        left: Paths that stay here, because no export made them and ``include`` does not name them.
        edited: Files that were edited since the export: README.md or none.
        not_run: For each file for another runtime that was not run here, one line that says why.
    """

    files: List[LocalFile]
    config: Dict[str, Any]
    difference: float
    left: List[str]
    edited: List[str]
    not_run: Tuple[str, ...] = ()


def check_directory(directory: Union[str, Path], include: Sequence[str] = ()) -> Checked:
    """Check that ``directory`` is a complete and working Hub repository.

    The files that an export made go to the Hub, and so do other files that ``include`` names. Names that begin with a
    dot are ignored.

    Args:
        directory: A directory that an export wrote.
        include: Patterns such as ``'figures/*.svg'`` of further files, relative to the directory; ``*`` matches ``/``.

    Raises:
        UsageError: It is no directory, or a pattern matches nothing.
        IEBNZooError: A file is missing, damaged, or does not belong; the message names it.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UsageError(
            f'{directory} is not a directory.\n'
            f'Expected what export writes: a directory with {", ".join(REQUIRED)}.'
        )
    paths = _listing(directory)
    for name in REQUIRED:
        if name not in paths:
            raise IEBNZooError(f'{directory} has no {name}.\nExpected {", ".join(REQUIRED)}. Export the run again.')
    bound = [name for name in bound_files(directory / GOLDEN) if name in paths]
    extra = _included(directory, [path for path in paths if path not in bound], include)
    config = check_config(directory / CONFIG)
    check_distinct(label_names_of(config), str(directory / CONFIG))
    _check_card(directory / CARD)
    _check_weights(directory / WEIGHTS)
    proof = prove(directory)
    files = [local_file(directory, path) for path in sorted({*bound, *extra})]
    left = [path for path in paths if path not in bound and path not in extra]
    return Checked(files, config, proof.difference, left, list(proof.edited), proof.not_run)


def local_file(directory: Path, path: str, content: Optional[bytes] = None) -> LocalFile:
    """Measure a file, or ``content`` in its place.

    Raises:
        IEBNZooError: It cannot be read.
    """
    source = directory / path
    try:
        size = source.stat().st_size if content is None else len(content)
        git, sha256 = hashlib.sha1(b'blob %d\0' % size), hashlib.sha256()
        if content is not None:
            git.update(content)
            sha256.update(content)
            return LocalFile(path, source, size, sha256.hexdigest(), git.hexdigest(), content)
        with open(source, 'rb') as file:
            while block := file.read(1 << 20):
                git.update(block)
                sha256.update(block)
        return LocalFile(path, source, size, sha256.hexdigest(), git.hexdigest())
    except OSError as e:
        raise IEBNZooError(f'{source} cannot be read ({e.strerror}).\nExpected readable files only.') from e


def _listing(directory: Path) -> List[str]:
    """List the paths of all plain files, sorted; refuse anything else but folders."""
    paths: List[str] = []
    folders = [directory]
    while folders:
        folder = folders.pop()
        try:
            entries = [entry for entry in os.scandir(folder) if not entry.name.startswith('.')]
        except OSError as e:
            raise IEBNZooError(f'{folder} cannot be read ({e.strerror}).\nExpected readable folders only.') from e
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode  # of a link itself, because its target may lie anywhere
            if stat.S_ISDIR(mode):
                folders.append(Path(entry.path))
            elif stat.S_ISREG(mode):
                paths.append(Path(entry.path).relative_to(directory).as_posix())
            else:
                kind = _KINDS.get(stat.S_IFMT(mode), 'no file')
                raise IEBNZooError(f'{entry.path} is {kind}.\nExpected plain files and folders only, since a push '
                                   f'takes what lies in the directory itself. Put a copy in its place, or remove it.')
    return sorted(paths)


def _included(directory: Path, others: List[str], include: Sequence[str]) -> List[str]:
    found = []
    for pattern in include:
        matching = [path for path in others if fnmatchcase(path, pattern)]
        if not matching:
            have = f'These are there: {", ".join(others[:5])}.' if others else 'There are none.'
            raise UsageError(f'--include {pattern!r} matches no further file in {directory}.\n'
                             f'Expected a pattern for files that no export made, relative to it. {have}')
        found += matching
    for path in found:
        if path.rpartition('/')[2].lower() in FORMAT_FILES:
            raise IEBNZooError(
                f'{directory} holds {path}, which no export made, so nobody has checked what it computes.\n'
                f'Expected such a file only from export --formats. Leave {path} out of --include, or export again.'
            )
        if not path.lower().endswith(_HARMLESS) or path.lower().endswith(_INDEX):
            raise IEBNZooError(
                f'{directory} holds {path}, which may be weights or code that nobody has checked.\n'
                f'Expected text, tables or pictures beside {WEIGHTS}. Leave {path} out of --include.'
            )
    return found


def _check_card(path: Path) -> None:
    try:
        card = ModelCard(path.read_text(encoding='utf-8'))
    except Exception as e:
        raise IEBNZooError(f'{path}: its metadata does not parse ({kind_and_line(e)}).\nExport the run again.') from e
    library = card.data.get('library_name')
    if library != 'timm':
        raise IEBNZooError(
            f'{path}: library_name is {library!r}.\n'
            f"Expected 'timm' in the metadata block at its top, so that the Hub shows how to load it."
        )
    # a conversion or a fold reports another measurement than accuracy
    converted = any((path.parent / name).is_file() for name in (CONVERSION_REPORT, FOLD_REPORT))
    if not card.data.get('eval_results') and not converted:
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
        raise IEBNZooError(f'{path} cannot be read as safetensors ({kind_and_line(e)}).\nExport the run again.') from e
