"""The mark, the last line of a generated card: it names the repository, and its digest shows an edit of the card.

A push must tell a card that an export wrote, which it may replace, from one that somebody wrote or edited by hand.
The digest stands in the card itself, as a comment that the Hub does not show, and not in golden.safetensors. So a push
can judge a card on the Hub by itself, even if the weights beside it were replaced, deleted or pushed with another
client. A card without a mark, such as one of an older export, counts as written by hand.

The name of the repository stands in the usage snippets. The digest is made of the card with the
placeholder in its place, so that one export can go to several repositories.
"""
import hashlib
import re
from typing import Optional, Tuple

PLACEHOLDER = 'OWNER/NAME'
_MARK = re.compile(r'(?:\r?\n)*<!-- iebn-zoo: generated card of ([\w.-]+/[\w.-]+), sha256 ([0-9a-f]{64}) -->')


def with_mark(card: str, repo_id: Optional[str] = None) -> str:
    """Return ``card`` with the mark at its end; its snippets name ``repo_id``, or the placeholder without one."""
    repo_id = repo_id or PLACEHOLDER
    return f'{card.rstrip()}\n\n{_mark(repo_id, _digest(card, repo_id))}\n'


def with_repo_id(card: str, repo_id: str) -> str:
    """Return ``card`` with ``repo_id`` in its usage snippets and its mark, in place of the name it was made with."""
    _, own, digest = _parts(card)
    card = _renamed(card, own, repo_id)
    return card.replace(_mark(own, digest), _mark(repo_id, digest)) if digest else card


def is_generated(card: str) -> bool:
    """Tell whether an export wrote ``card`` as it is now, whatever repository it names."""
    body, own, digest = _parts(card)
    return digest is not None and digest == _digest(body, own)


def named_in(card: str) -> Optional[str]:
    """Return the repository that the mark of ``card`` and its snippets name; None where it has no mark."""
    _, own, digest = _parts(card)
    return own if digest is not None else None


def card_digest(card: str) -> str:
    """Return the hex sha256 of a card and its mark, with the placeholder as the name of the repository."""
    body, own, digest = _parts(card)
    return hashlib.sha256(f'{_digest(body, own)} {digest}'.encode()).hexdigest()


def _mark(repo_id: str, digest: str) -> str:
    return f'<!-- iebn-zoo: generated card of {repo_id}, sha256 {digest} -->'


def _parts(card: str) -> Tuple[str, str, Optional[str]]:
    found = _MARK.search(card)
    body = card[:found.start()] + card[found.end():] if found else card
    # a mark that names another repository than the snippets was copied
    if found is None or not any(snippet in body for snippet in _snippets(found[1])):
        return card, PLACEHOLDER, None
    return body, found[1], found[2]


def _digest(body: str, repo_id: str) -> str:
    text = _renamed(body, repo_id, PLACEHOLDER).replace('\r\n', '\n')  # git or an editor may have changed the line ends
    return hashlib.sha256(text.strip('\n').encode('utf-8')).hexdigest()


def _renamed(text: str, old: str, new: str) -> str:
    # the command of the training may name the same repository as its start, so only the snippets are renamed
    for before, after in zip(_snippets(old), _snippets(new), strict=True):
        text = text.replace(before, after)
    return text


def _snippets(repo_id: str) -> Tuple[str, ...]:
    return f"create_model('hf-hub:{repo_id}'", f"repo_id = '{repo_id}'"
