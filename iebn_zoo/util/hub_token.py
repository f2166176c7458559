"""The token of the Hub: where it comes from, and how it stays out of messages.

A token comes from the caller, from HF_TOKEN or from the hub's login. It is never printed, logged or put in a message.
"""
import re
from typing import List, Optional

from huggingface_hub import get_token

from iebn_zoo.util.errors import IEBNZooError

LOGIN = 'Set HF_TOKEN to a token with write access, or run `hf auth login`'


def find_token(token: Optional[str] = None) -> Optional[str]:
    """Return the token to use: ``token``, else HF_TOKEN, else the hub's login, else None.

    Raises:
        IEBNZooError: It is no token, or the login cannot be read.
    """
    try:
        token = (token or get_token() or '').strip()
    except Exception as e:
        # a credential provider may have written the text of this error, so the message names its kind only
        raise IEBNZooError(f"the hub's login cannot be read ({type(e).__name__}).\n{LOGIN}.") from None
    if not re.fullmatch(r'[!-~]*', token):
        # an HTTP library would refuse such a header and print it
        raise IEBNZooError(f'the token holds characters that no token has.\n{LOGIN}.')
    return token or None


def scrub(text: str, secret: Optional[str]) -> str:
    """Return ``text`` without the token, and without a password in a URL."""
    if secret:
        text = text.replace(secret, '<token>')
    text = re.sub(r'(\bBearer\s+)\S[^\n]*', r'\1<token>', text)  # a header that an HTTP library refuses, escaped
    return re.sub(r'(\w+://)[^/@\s]+@', r'\1', text)


def hide(text: str) -> str:
    """Return ``text`` without the token in use: for messages of what reads the token by itself."""
    return scrub(text, _in_use())


def harmless(error: BaseException) -> Optional[BaseException]:
    """Return ``error`` as the cause of another, or None if it or what led to it would show the token in use."""
    secret = _in_use()
    said = [text for link in causes(error) for text in (str(link), repr(link))]
    return error if all(scrub(text, secret) == text for text in said) else None


def causes(error: BaseException) -> List[BaseException]:
    """List an error and those that led to it, the first cause last."""
    found: List[BaseException] = []
    link: Optional[BaseException] = error
    while link is not None and link not in found:
        found.append(link)
        link = link.__cause__ or link.__context__
    return found


def _in_use() -> Optional[str]:
    try:
        return find_token()
    except IEBNZooError:
        return None
