"""What a push would change in a repository: which files are new, which are replaced, deleted or left as they are."""
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Optional

from huggingface_hub import HfApi

from iebn_zoo.hub.card.mark import with_repo_id
from iebn_zoo.hub.package.check import Checked, LocalFile, local_file
from iebn_zoo.hub.package.golden import CARD
from iebn_zoo.hub.push.remote_card import license_of, read_remote_card
from iebn_zoo.hub.push.verify import difference, remote_files

# The names under which timm and other loaders look for a model's weights. One that stays behind from an older push
# would be taken for this model's; the Hub keeps deleted files in its history.
_STALE = re.compile(
    r'(open_clip_)?(pytorch_model|model)(-\d+-of-\d+)?\.(bin|pth|safetensors)(\.index\.json)?|tf_model\.h5|'
    r'flax_model\.msgpack'
)


@dataclass(frozen=True)
class Plan:
    """What goes up and what it meets.

    Attributes:
        files: What the commit shall hold.
        deleted: Stale weight files that the same commit removes.
        replaced: Paths of ``files`` that are there with another content.
        kept_card: The card there was written by hand and stays.
        license_before: In the card that is there, or None.
        license_after: In the card that will be there, or None.
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
        repo_id: ``OWNER/NAME``; goes into the card, in a copy of it.
        directory: Of the export; nothing in it is changed.
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
    deleted = sorted(sibling.rfilename for sibling in remote.siblings or []
                     if sibling.rfilename not in ours and _STALE.fullmatch(sibling.rfilename))
    if CARD not in there:
        return Plan(files, deleted, replaced, license_after=after)
    if CARD not in replaced:
        return Plan(files, deleted, replaced, license_before=after, license_after=after)
    theirs = read_remote_card(api, repo_id, remote.sha, there[CARD].size)
    if theirs.generated or replace_card:
        return Plan(files, deleted, replaced, license_before=theirs.license, license_after=after)
    return Plan([file for file in files if file.path != CARD], deleted, [path for path in replaced if path != CARD],
                True, theirs.license, theirs.license)
