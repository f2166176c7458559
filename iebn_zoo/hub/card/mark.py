"""The last line of a generated card: of which repository it is, and a digest by which an edit of the card is seen.

A push must tell a card that an export wrote, which it may replace, from one that somebody wrote or edited by hand.
The digest stands in the card itself, as a comment that the Hub does not show, and not in golden.safetensors: a card on
the Hub is then judged by itself, also if the weights beside it were replaced, deleted or pushed with another client.
A card without the line (an older export, another tool's) counts as written by hand.

The name of the repository stands in the usage snippets. It is not part of the digest, so that one export can go to
several repositories: the digest is of the text in which the placeholder stands in its place.
"""
import hashlib
import re
from typing import Optional, Tuple

PLACEHOLDER = 'OWNER/NAME'
_MARK = re.compile(r'\s*<!-- iebn-zoo: generated card of ([\w.-]+/[\w.-]+), sha256 ([0-9a-f]{64}) -->')


def with_mark(card: str, repo_id: Optional[str] = None) -> str:
    """``card``, whose snippets name ``repo_id`` or the placeholder, with the line at its end."""
    repo_id = repo_id or PLACEHOLDER
    return f'{card.rstrip()}\n\n{_mark(repo_id, _digest(card, repo_id))}\n'


def with_repo_id(card: str, repo_id: str) -> str:
    """``card`` with ``repo_id`` in its usage snippets and in its last line, in place of the name it was made with."""
    _, own, digest = _parts(card)
    card = _renamed(card, own, repo_id)
    return card.replace(_mark(own, digest), _mark(repo_id, digest)) if digest else card


def is_generated(card: str) -> bool:
    """Whether ``card`` is what an export wrote, but for the name of the repository."""
    body, own, digest = _parts(card)
    return digest is not None and digest == _digest(body, own)


def card_digest(card: str) -> str:
    """Hex sha256 of a card, its last line included, with the placeholder as the repository's name."""
    body, own, digest = _parts(card)
    return hashlib.sha256(f'{_digest(body, own)} {digest}'.encode()).hexdigest()


def _mark(repo_id: str, digest: str) -> str:
    return f'<!-- iebn-zoo: generated card of {repo_id}, sha256 {digest} -->'


def _parts(card: str) -> Tuple[str, str, Optional[str]]:
    found = _MARK.search(card)
    body = card[:found.start()] + card[found.end():] if found else card
    if found is None or _snippet(found[1]) not in body:  # a line that names another repository than the snippets do
        return card, PLACEHOLDER, None
    return body, found[1], found[2]


def _digest(body: str, repo_id: str) -> str:
    text = _renamed(body, repo_id, PLACEHOLDER).replace('\r\n', '\n')  # git or an editor may have changed the line ends
    return hashlib.sha256(text.strip('\n').encode('utf-8')).hexdigest()


def _renamed(text: str, old: str, new: str) -> str:
    # only where a snippet creates the model: the command that trained it may name the same repository as its start
    return text.replace(_snippet(old), _snippet(new))


def _snippet(repo_id: str) -> str:
    return f"create_model('hf-hub:{repo_id}'"
