"""The card that stands on the Hub already: whether a push may replace it, and what license either of them names."""
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from huggingface_hub import HfApi, ModelCard, hf_hub_download

from iebn_zoo.hub.card.mark import is_generated
from iebn_zoo.hub.package.golden import CARD
from iebn_zoo.hub.push.client import ask

# the Hub shows no card that is longer than this, and no export writes one
_LONGEST = 1_000_000


@dataclass(frozen=True)
class RemoteCard:
    """The card of a repository.

    Attributes:
        generated: An export wrote it, and nobody has edited it since.
        license: Hub id of the license in its metadata, or None.
    """

    generated: bool
    license: Optional[str]


def read_remote_card(api: HfApi, repo_id: str, commit: str, size: int) -> RemoteCard:
    """Download and judge the card of a commit.

    Args:
        api: Client with the token to read by.
        repo_id: ``OWNER/NAME``.
        commit: Full commit hash.
        size: Size of the file in bytes, according to the Hub.

    Raises:
        IEBNZooError: It could not be downloaded.
    """
    if size > _LONGEST:
        return RemoteCard(False, None)
    # in the user's cache a single file would look like a copy of the repository
    with tempfile.TemporaryDirectory(prefix='iebn-zoo-card-') as cache:
        def read() -> bytes:
            return Path(hf_hub_download(repo_id, CARD, revision=commit, endpoint=api.endpoint, token=api.token,
                                        cache_dir=cache)).read_bytes()
        text = ask(api, repo_id, f'downloading {CARD} of', read, size).decode('utf-8', errors='replace')
    return RemoteCard(is_generated(text), license_of(text))


def license_of(card: str) -> Optional[str]:
    """Return the license in a card's metadata, or None where it names none or does not parse."""
    try:
        found = ModelCard(card).data.get('license')
    except Exception:  # anybody may have written the text, so YAML and the client may raise anything
        return None
    return found if isinstance(found, str) else None
