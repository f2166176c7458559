"""How long a request to the Hub may take in all, and how often a read is repeated.

The HTTP client has time-outs between two bytes only, so that a server which sends a byte now and then is waited for
without end; and its own repetitions add up. Here each step has one limit, whatever happens within it.
"""
import os
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from typing import Any, Callable, Iterator, TypeVar

from huggingface_hub import get_session, set_client_factory
from huggingface_hub.utils import _http

from iebn_zoo.util.errors import IEBNZooError, UsageError

VARIABLE = 'IEBN_ZOO_HUB_TIMEOUT'
_LIMIT = 120.0
_BYTES = 6_000_000  # a transfer may take the limit once more for each so many bytes: 50 kB a second, usually
# the waits of huggingface_hub's http_backoff, in seconds
_WAITS = (1.0, 2.0, 4.0, 8.0, 8.0)
_TRIES = 8  # a request that is repeated five times may take this part of the limit each time: 6 · 15 + 23 s < 120 s
T = TypeVar('T')


def limit() -> float:
    """Seconds that one request may take in all: IEBN_ZOO_HUB_TIMEOUT, or 120.

    Raises:
        UsageError: The variable holds no positive number.
    """
    text = os.environ.get(VARIABLE, '')
    try:
        value = float(text or _LIMIT)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise UsageError(f'{VARIABLE} is {text!r}.\nExpected seconds that a request to the Hub may take, such as 120.')
    return value


def one_try(size: int = 0) -> float:
    """Seconds for one of up to six tries of a read of ``size`` bytes; with the waits between them it is the limit."""
    return limit() * (1 / _TRIES + size / _BYTES)


def transfer_limit(size: int) -> float:
    """Seconds for requests that carry ``size`` bytes."""
    return limit() * (1 + size / _BYTES)


def within(seconds: float, call: Callable[[], T]) -> T:
    """``call()``, or TimeoutError after ``seconds``; what it is still waiting for is then left to itself.

    It runs in a thread of its own, since nothing else ends a wait for a server that is slow but not silent.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as e:
            outcome.set_exception(e)

    threading.Thread(target=run, daemon=True, name='iebn-zoo-hub').start()
    try:
        return outcome.result(seconds)
    except FutureTimeoutError:
        if outcome.done():  # the error of the call itself
            raise
        raise TimeoutError(f'no answer in {seconds:.0f} seconds') from None


def patiently(call: Callable[[], T], seconds: float, temporary: type) -> T:
    """``call()``, repeated with the waits of the client's own back-off while it raises ``temporary``.

    The client repeats uploads by itself, and reads not. All repetitions together take at most ``seconds``.
    """
    end = time.monotonic() + seconds
    for wait in (*_WAITS, None):
        try:
            return call()
        except IEBNZooError as e:
            if not isinstance(e, temporary) or wait is None:
                raise
            wait *= min(1.0, limit() / _LIMIT)
            if time.monotonic() + wait >= end:
                raise
            time.sleep(wait)
    raise AssertionError('the last try returns or raises')


@contextmanager
def session_timeout(repeated: bool = False) -> Iterator[None]:
    """Inside the block the client's session gives up when nothing moves for the limit, or a part of it.

    Args:
        repeated: The client repeats the block's requests by itself: together they shall stay within the limit.
    """
    # the client makes itself a new session after a broken connection: a time-out must be part of how it is made
    previous: Callable[[], Any] = getattr(_http, '_GLOBAL_CLIENT_FACTORY', _http.default_client_factory)
    seconds = limit() / _TRIES if repeated else limit()

    def factory() -> Any:
        session = previous()
        session.timeout = (min(10.0, seconds), seconds, seconds, seconds)
        return session

    set_client_factory(factory)
    try:
        get_session()
        yield
    finally:
        set_client_factory(previous)
