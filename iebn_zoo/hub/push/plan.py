"""The plan of a push: which files it adds to a repository, and which it replaces, deletes or leaves as they are."""
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Optional, Set

from huggingface_hub import HfApi, hf_hub_download

from iebn_zoo.hub.card.mark import with_repo_id
from iebn_zoo.hub.formats.table import FORMAT_FILES
from iebn_zoo.hub.package.check import Checked, LocalFile, local_file
from iebn_zoo.hub.package.golden import CARD, GOLDEN, read_golden
from iebn_zoo.hub.package.proof import FILES
from iebn_zoo.hub.push.client import ask
from iebn_zoo.hub.push.remote_card import license_of, read_remote_card
from iebn_zoo.hub.push.verify import difference, remote_files
from iebn_zoo.util.errors import IEBNZooError

# Names under which timm and other loaders look for weights. They would load a file that an older push left behind. The
# Hub keeps deleted files in its history.
_STALE = re.compile(
    r'(open_clip_)?(pytorch_model|model)(-\d+-of-\d+)?\.(bin|pth|safetensors)(\.index\.json)?|tf_model\.h5|'
    r'flax_model\.msgpack'
)


@dataclass(frozen=True)
class Plan:
    """What a push uploads, and what it finds in the repository.

    Attributes:
        files: Files that the commit shall hold.
        deleted: Stale weights, and reports of the export that is replaced, that the same commit removes.
        replaced: Paths of ``files`` that the repository has with another content.
        kept_card: Somebody wrote the card in the repository by hand, so it stays.
        license_before: License in the card of the repository, or None.
        license_after: License in its card after the push, or None.
    """

    files: List[LocalFile]
    deleted: List[str] = field(default_factory=list)
    replaced: List[str] = field(default_factory=list)
    kept_card: bool = False
    license_before: Optional[str] = None
    license_after: Optional[str] = None


def make_plan(api: HfApi, repo_id: str, directory: Path, checked: Checked, remote: Optional[Any],
              replace_card: bool) -> Plan:
    """Compare the files of an export with what is on the Hub.

    Args:
        api: Client with the token to read by.
        repo_id: ``OWNER/NAME``, which a copy of the card then names.
        directory: Directory of the export; nothing in it is changed.
        checked: What ``check_directory`` found there.
        remote: The repository's info, or None if there is no repository.
        replace_card: Replace a card that somebody wrote by hand.
    """
    text = (directory / CARD).read_text(encoding='utf-8')
    named = with_repo_id(text, repo_id)
    card = local_file(directory, CARD, None if named == text else named.encode('utf-8'))
    files = [card if file.path == CARD else file for file in checked.files]
    after = license_of(named)
    if remote is None:
        return Plan(files, license_after=after)
    ours = [file.path for file in files]
    there = remote_files(api, repo_id, remote.sha, ours)
    replaced = [file.path for file in files if file.path in there and difference(file, there[file.path])]
    others = {sibling.rfilename for sibling in remote.siblings or []} - set(ours)
    stale = {path for path in others if path in FORMAT_FILES or _STALE.fullmatch(path)}
    if GOLDEN in there and (others - stale) & set(FILES):
        stale |= others & _exported(api, repo_id, remote.sha, there[GOLDEN].size)
    deleted = sorted(stale)
    if CARD not in there:
        return Plan(files, deleted, replaced, license_after=after)
    if CARD not in replaced:
        return Plan(files, deleted, replaced, license_before=after, license_after=after)
    theirs = read_remote_card(api, repo_id, remote.sha, there[CARD].size)
    if theirs.generated or replace_card:
        return Plan(files, deleted, replaced, license_before=theirs.license, license_after=after)
    return Plan([file for file in files if file.path != CARD], deleted, [path for path in replaced if path != CARD],
                True, theirs.license, theirs.license)


def _exported(api: HfApi, repo_id: str, commit: str, size: int) -> Set[str]:
    """Return the names of the files that belong to the export on the Hub, as its golden.safetensors binds them.

    The reports among them, such as evaluation.json, are about the weights that the push replaces.
    """
    with tempfile.TemporaryDirectory(prefix='iebn-zoo-golden-') as cache:  # not in the user's cache, as for the card
        path = ask(api, repo_id, f'downloading {GOLDEN} of', lambda: hf_hub_download(
            repo_id, GOLDEN, revision=commit, endpoint=api.endpoint, token=api.token, cache_dir=cache), size)
        try:
            bound = read_golden(path).files
        except IEBNZooError:  # no export of ours wrote it, so no file there is known to be of one
            return set()
    return set(bound) & set(FILES)  # the names come from a file that anybody may have written
