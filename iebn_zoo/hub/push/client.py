"""Talks to the Hub, and turns the client's errors into messages that say what to do."""
import sys
from contextlib import contextmanager
from typing import Callable, Iterator, List, Optional, Tuple, Type, TypeVar

from huggingface_hub import HfApi, ModelInfo, get_session
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
    hf_raise_for_status,
)

from iebn_zoo.hub.push.patience import one_try, patiently, transfer_limit, within
from iebn_zoo.util.errors import IEBNZooError, kind_and_line
from iebn_zoo.util.hub_token import LOGIN, causes, scrub
from iebn_zoo.version import __version__

_NAMES = {409: 'conflict', 412: 'precondition failed', 422: 'cannot be processed'}
T = TypeVar('T')


class HubUnreachable(IEBNZooError):
    """The Hub gave no answer, or one that says nothing about the request: network, time-out, offline mode, 429, 5xx."""


class HubRefused(IEBNZooError):
    """The Hub understood the request and did not do it.

    Attributes:
        status: HTTP status, 4xx.
        said: The reason that the Hub gave.
    """

    status = 0
    said = ''


def make_api(token: Optional[str]) -> HfApi:
    """Return a client with exactly this token, or an anonymous client without one, whatever login the machine has."""
    return HfApi(token=token or False, library_name='iebn-zoo', library_version=__version__)


def repo_info(api: HfApi, repo_id: str, revision: Optional[str] = None) -> ModelInfo:
    """Call ``api.model_info`` with our time-out; it does not take that of the session."""
    return api.model_info(repo_id, revision=revision, timeout=one_try())


def ask(api: HfApi, repo_id: str, doing: str, read: Callable[[], T], size: int = 0, note: str = '') -> T:
    """Return ``read()``. Repeat it within its limit while the Hub gives no answer, and turn errors into messages.

    Args:
        api: See ``hub_errors``.
        repo_id: See ``hub_errors``.
        doing: See ``hub_errors``.
        read: A request that changes nothing.
        size: Number of bytes that it transfers.
        note: See ``hub_errors``.

    Raises:
        IEBNZooError: The Hub refuses, or gives no answer (HubUnreachable).
    """
    def once() -> T:
        with hub_errors(api, repo_id, doing, note):
            return within(one_try(size), read)
    return patiently(once, transfer_limit(size), HubUnreachable)


def commit_of(info: ModelInfo) -> str:
    """Return the full hash of the commit that ``info`` describes.

    Raises:
        HubUnreachable: The Hub named none.
    """
    if not info.sha:
        raise HubUnreachable(f'the Hub names no commit of {info.id}.\nWait a little and run again.')
    return info.sha


def validate_card(api: HfApi, card: str) -> None:
    """Let the Hub check a card's metadata, which writes nothing. ``ModelCard.validate`` of 1.x ignores HF_ENDPOINT."""
    headers = build_hf_headers(token=api.token, library_name=api.library_name, library_version=api.library_version)
    url = f'{api.endpoint}/api/validate-yaml'
    hf_raise_for_status(get_session().post(url, json={'repoType': 'model', 'content': card}, headers=headers))


def require_token(token: Optional[str]) -> str:
    """Return ``token``; without one raise the error that says how to get one."""
    if token is None:
        raise IEBNZooError(f'no token for the Hub.\n{LOGIN}.')
    return token


@contextmanager
def quiet_without_terminal() -> Iterator[bool]:
    """Let the client draw progress bars on a terminal only, inside the block. Yields whether there is one."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    quiet = not terminal and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        yield terminal
    finally:
        if quiet:
            enable_progress_bars()


@contextmanager
def hub_errors(api: HfApi, repo_id: str, doing: str, note: str = '') -> Iterator[None]:
    """Turn whatever the client raises inside the block into an IEBNZooError (HubUnreachable) of at most three lines.

    Args:
        api: The client in use; its token stays out of the message.
        repo_id: The repository that the block works on.
        doing: What the block does, as it follows 'while' in a message: ``'uploading'``.
        note: Third line of the message.
    """
    try:
        yield
    except IEBNZooError:
        raise
    except Exception as e:
        chain = causes(e)
        kind, message = _explain(api, repo_id, doing, chain)
        message += f'\n{note}' if note else ''
        secret = api.token if isinstance(api.token, str) else None
        # keep the original for the debugger, unless a server or proxy has echoed the token into it
        leaks = secret is not None and any(secret in f'{link} {link!r}' for link in chain)
        error = kind(scrub(message, secret))
        http = next((link for link in chain if isinstance(link, HfHubHTTPError)), None)
        if isinstance(error, HubRefused) and http is not None:
            error.status, error.said = http.response.status_code, scrub(_said(http), secret)
        raise error from (None if leaks else e)


def _explain(api: HfApi, repo_id: str, doing: str, chain: List[BaseException]) -> Tuple[Type[IEBNZooError], str]:
    # the client wraps a failed upload in a RuntimeError, so the answer may stand further down the chain
    http = next((e for e in chain if isinstance(e, HfHubHTTPError)), None)
    if http is not None:
        return _explain_status(api, repo_id, doing, http)
    # httpx in huggingface_hub 1.x, httpx2 in 2.x: their classes share names, not modules
    kinds = {kind.__name__ for e in chain for kind in type(e).__mro__}
    if any(isinstance(e, OfflineModeIsEnabled) for e in chain):
        return HubUnreachable, 'HF_HUB_OFFLINE is set, so the Hub may not be asked.\nUnset it and run again.'
    if kinds & {'JSONDecodeError', 'RemoteProtocolError', 'FileMetadataError'}:
        return HubUnreachable, (
            f'{api.endpoint} broke off its answer, or gave one that cannot be read, while {doing} {repo_id}.\n'
            f'Check the network and HF_ENDPOINT, and run again.'
        )
    if 'TimeoutException' in kinds or 'TimeoutError' in kinds:
        return HubUnreachable, (
            f'{api.endpoint} did not answer in time while {doing} {repo_id}.\nCheck the network and run again.'
        )
    if kinds & {'TransportError', 'ConnectionError'}:
        return HubUnreachable, (
            f'cannot reach {api.endpoint} while {doing} {repo_id} ({kind_and_line(chain[-1], 80)}).\n'
            f'Check the network and HF_ENDPOINT. If that server does not speak Xet, set HF_HUB_DISABLE_XET=1.'
        )
    text = ' '.join(str(chain[0]).split())[:200]
    text = text or type(chain[0]).__name__
    return IEBNZooError, f'failed while {doing} {repo_id}: {text}.\nCorrect that and run again.'


def _explain_status(api: HfApi, repo_id: str, doing: str, error: HfHubHTTPError) -> Tuple[Type[IEBNZooError], str]:
    status, said = error.response.status_code, _said(error)
    if isinstance(error, RevisionNotFoundError):
        return HubRefused, (
            f'{repo_id} has no such revision ({status}: {said}).\nExpected a branch, refs/pr/N or a full commit hash.'
        )
    if isinstance(error, RepositoryNotFoundError):
        return HubRefused, (
            f'{repo_id} does not exist, or is private and this token may not see it ({status}).\n'
            f'Check the name, and that the token belongs to somebody with access.'
        )
    if status == 401:
        return HubRefused, f'{api.endpoint} does not know this token ({status}).\n{LOGIN} again.'
    if status == 403:
        return HubRefused, (
            f'no write access to {repo_id} ({status}: {said}).\n'
            f"Use a token of somebody who may write there, or --create-pr on somebody else's repository."
        )
    if status in (408, 429) or status >= 500:
        return HubUnreachable, (
            f'{api.endpoint} answered {status} while {doing} {repo_id} ({said}).\nWait a little and run again.'
        )
    name = f'{status} ({_NAMES[status]})' if status in _NAMES else str(status)
    return HubRefused, (
        f'{api.endpoint} refused with {name} while {doing} {repo_id}: {said}.\nCorrect that and run again.'
    )


def _said(error: HfHubHTTPError) -> str:
    return ' '.join((error.server_message or '').split())[:120] or 'no details'
