"""Verifies that a directory, a repository on the Hub or a copy in the cache is what was exported, up to the logits.

All three go through one check, ``proof.prove``; this module gets the files. It downloads every file of a repository at
one commit and compares its bytes with the digests that the Hub keeps. A message names a copy in the cache that differs.
"""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple, Union

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile

import iebn_zoo  # noqa: F401  registers the models that config.json names
from iebn_zoo.hub.card.mark import named_in
from iebn_zoo.hub.package.check import LocalFile, local_file
from iebn_zoo.hub.package.golden import CARD, GOLDEN
from iebn_zoo.hub.package.ids import check_repo_id
from iebn_zoo.hub.package.proof import Proof, bound_files, prove
from iebn_zoo.hub.push.client import ask, commit_of, make_api, repo_info
from iebn_zoo.hub.push.patience import session_timeout
from iebn_zoo.util.errors import IEBNZooError, UsageError
from iebn_zoo.util.hub_token import find_token


@dataclass(frozen=True)
class Verification:
    """What was verified.

    Attributes:
        name: Name by which timm loads it: ``'local-dir:DIR'`` or ``'hf-hub:OWNER/NAME@COMMIT'``.
        commit: Full commit hash, or None for a directory.
        difference: Largest absolute difference between the golden logits and those of the loaded model.
        files: Files of which every byte was compared.
        edited: Files that were edited since the export: README.md or none.
        others: Files beside them that no export made and that were not compared.
        offline: Whether the cache was taken as it is, without asking the Hub.
        formats: Largest difference to the golden logits of each file for another runtime, by its name.
        image: Whether an image went from its pixels to a class; see ``Proof``.
        other_name: Of a repository: the one that the code on its card loads, if that is another one.
        not_run: For each such file whose bytes were compared and that was not run here, one line that says why.
    """

    name: str
    commit: Optional[str]
    difference: float
    files: Tuple[str, ...]
    edited: Tuple[str, ...] = ()
    others: Tuple[str, ...] = ()
    offline: bool = False
    formats: Mapping[str, float] = field(default_factory=dict)
    not_run: Tuple[str, ...] = ()
    image: bool = True
    other_name: Optional[str] = None


class WrongBytes(IEBNZooError):
    """A file has other bytes than the Hub says it has.

    Attributes:
        path: Path in the repository.
    """

    path = ''


def verify(repo_or_dir: Union[str, Path], revision: Optional[str] = None, *,
           token: Optional[str] = None) -> Verification:
    """Prove that a model is what was exported: every byte, label names, preprocessing, logits.

    golden.safetensors says what they were. The model is loaded through timm as a user loads it; nothing is changed.

    Args:
        repo_or_dir: A directory that ``export`` or ``convert`` wrote, or ``OWNER/NAME`` on the Hub; ``local-dir:`` and
            ``hf-hub:`` may stand before it. With HF_HUB_OFFLINE set, the copy of the repository in the cache.
        revision: Of a repository: a branch, ``refs/pr/N`` or, to pin it, a full commit hash. Default: main.
        token: For a private repository; default HF_TOKEN, then the hub's login.

    Returns:
        What was compared.

    Raises:
        UsageError: The name is neither a directory nor a repository id, or a directory was given with a revision.
        IEBNZooError: Something differs, and the message names it; or the Hub does not answer.
    """
    name = str(repo_or_dir)
    directory = Path(name.removeprefix('local-dir:'))
    if not name.startswith('hf-hub:') and directory.is_dir():
        if revision is not None:
            raise UsageError(f'{directory} is a directory, which has no revision {revision!r}.\nLeave it out.')
        others = [path.name for path in sorted(directory.iterdir()) if not path.name.startswith('.')]
        return _verified(f'local-dir:{directory}', None, prove(directory), others, False, directory)
    if not name.startswith('hf-hub:') and directory.is_file():
        raise UsageError(f'{directory} is a file, which says nothing of its export.\n'
                         f'Give the directory that export or convert wrote, or OWNER/NAME on the Hub.')
    repo_id, _, at = name.removeprefix('hf-hub:').partition('@')
    if name.startswith('local-dir:') or (Path(name).is_absolute() or name.startswith('.')):
        raise UsageError(f'{directory} is not a directory.\nExpected what export writes, or OWNER/NAME on the Hub.')
    check_repo_id(repo_id)
    if at and revision is not None and at != revision:
        raise UsageError(f'{name} names the revision {at!r}, and {revision!r} was asked for.\nGive one of them.')
    with session_timeout():
        return verify_repository(make_api(find_token(token)), repo_id, revision or at or None)


def verify_repository(
        api: HfApi,
        repo_id: str,
        revision: Optional[str] = None,
        also: Sequence[str] = (),
) -> Verification:
    """Do what ``verify`` does, for a repository and with a given client.

    Args:
        api: Client with the token to read by.
        repo_id: ``OWNER/NAME``.
        revision: Branch, pull request or full commit hash.
        also: Further paths whose bytes must be those that the Hub says they are.
    """
    if constants.HF_HUB_OFFLINE:
        return _verify_cached(repo_id, revision)

    info = ask(api, repo_id, 'asking about', lambda: repo_info(api, repo_id, revision))
    commit, there = commit_of(info), [sibling.rfilename for sibling in info.siblings or []]
    if GOLDEN not in there:
        raise IEBNZooError(f'{repo_id} at commit {commit[:12]} has no {GOLDEN}, so nothing says what it should do.\n'
                           f'Expected a model that iebn-zoo exported.')
    golden = _download(api, repo_id, commit, GOLDEN, 0)
    paths = list(dict.fromkeys([*bound_files(golden), *also]))
    entries = remote_files(api, repo_id, commit, paths)
    for path in paths:
        if path not in entries:
            raise IEBNZooError(f'{repo_id} at commit {commit[:12]} has no {path}, which belongs to the export.\n'
                               f'Expected all files of the export. Push it again.')
        local = _download(api, repo_id, commit, path, entries[path].size)
        if difference(local_file(golden.parent, path), entries[path]) is not None:
            error = WrongBytes(f'{path} of {repo_id} at commit {commit[:12]} has other bytes in the cache than on the '
                               f'Hub.\nDelete {local} and what it points to, and run again.')
            error.path = path
            raise error
    proof = prove(golden.parent, f'hf-hub:{repo_id}@{commit}')
    return _verified(f'hf-hub:{repo_id}@{commit}', commit, proof, [p for p in there if p != '.gitattributes'], False,
                     golden.parent)


def remote_files(api: HfApi, repo_id: str, commit: str, paths: List[str], note: str = '') -> Dict[str, RepoFile]:
    """Ask the Hub for size and digests of the files at ``paths``; the answer, by path, lacks absent files."""
    entries = ask(api, repo_id, 'asking for the digests of',
                  lambda: api.get_paths_info(repo_id, paths, revision=commit), note=note)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def difference(file: LocalFile, entry: Optional[RepoFile]) -> Optional[str]:
    """Return how a file on the Hub differs from a local one, by its size and the Hub's digest; None where it does not.

    Args:
        file: The local file.
        entry: What the Hub says of its file, or None where it has none.
    """
    if entry is None:
        return 'is missing'
    if entry.size != file.size:
        return f'has {entry.size} bytes instead of {file.size}'
    # git names a small file by the sha1 of its content, LFS a large one by its sha256
    actual, expected = (entry.lfs.sha256, file.sha256) if entry.lfs else (entry.blob_id, file.git_oid)
    return None if actual == expected else f'has the digest {actual[:12]} instead of {expected[:12]}'


def _download(api: HfApi, repo_id: str, commit: str, path: str, size: int) -> Path:
    return Path(ask(api, repo_id, f'downloading {path} of', lambda: hf_hub_download(
        repo_id, path, revision=commit, endpoint=api.endpoint, token=api.token), size))


def _verify_cached(repo_id: str, revision: Optional[str]) -> Verification:
    def cached(path: str, revision: Optional[str]) -> Path:
        try:
            return Path(hf_hub_download(repo_id, path, revision=revision, local_files_only=True))
        except LocalEntryNotFoundError as e:
            raise IEBNZooError(
                f'{path} of {repo_id}{f" at {revision}" if revision else ""} is not in the cache, and HF_HUB_OFFLINE '
                f'is set.\nUnset it and verify once with the Hub, which fills the cache.') from e

    golden = cached(GOLDEN, revision)
    commit = golden.parent.name
    for path in bound_files(golden):
        cached(path, commit)
    others = [path.name for path in golden.parent.iterdir()]
    name = f'hf-hub:{repo_id}@{commit}'
    return _verified(name, commit, prove(golden.parent, name), others, True, golden.parent)


def _verified(name: str, commit: Optional[str], proof: Proof, there: Sequence[str], offline: bool,
              directory: Path) -> Verification:
    others = tuple(sorted(set(there) - set(proof.files)))
    named = named_in((directory / CARD).read_text(encoding='utf-8', errors='replace')) if commit else None
    own = name.removeprefix('hf-hub:').partition('@')[0]
    other = named if named is not None and named.lower() != own.lower() else None  # the Hub ignores the case
    return Verification(name, commit, proof.difference, proof.files, proof.edited, others, offline, proof.formats,
                        proof.not_run, proof.image, other)
