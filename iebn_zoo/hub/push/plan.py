"""The plan of a push: which files it adds to a repository, and which it replaces, deletes or leaves as they are."""
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Optional

from huggingface_hub import HfApi

from iebn_zoo.hub.card.mark import with_repo_id
from iebn_zoo.hub.formats.table import FORMAT_FILES
from iebn_zoo.hub.package.check import Checked, LocalFile, local_file
from iebn_zoo.hub.package.golden import CARD
from iebn_zoo.hub.push.remote_card import license_of, read_remote_card
from iebn_zoo.hub.push.verify import difference, remote_files

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
        deleted: Stale weight files that the same commit removes.
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
    deleted = sorted(sibling.rfilename for sibling in remote.siblings or [] if sibling.rfilename not in ours
                     and (sibling.rfilename in FORMAT_FILES or _STALE.fullmatch(sibling.rfilename)))
    if CARD not in there:
        return Plan(files, deleted, replaced, license_after=after)
    if CARD not in replaced:
        return Plan(files, deleted, replaced, license_before=after, license_after=after)
    theirs = read_remote_card(api, repo_id, remote.sha, there[CARD].size)
    if theirs.generated or replace_card:
        return Plan(files, deleted, replaced, license_before=theirs.license, license_after=after)
    return Plan([file for file in files if file.path != CARD], deleted, [path for path in replaced if path != CARD],
                True, theirs.license, theirs.license)
