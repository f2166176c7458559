"""Limits how long a request to the Hub may take in all, and repeats reads.

The HTTP client has time-outs between two bytes only, so that it waits without end for a server that sends a byte now
and then, and its own repetitions add up. Here each step has one limit, whatever happens within it.
"""
import os
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from typing import Any, Callable, Iterator, TypeVar

from huggingface_hub import get_session, set_client_factory

from iebn_zoo._compat import hub_client_factory
from iebn_zoo.util.errors import IEBNZooError, UsageError

VARIABLE = 'IEBN_ZOO_HUB_TIMEOUT'
_LIMIT = 120.0
_BYTES = 6_000_000  # bytes for which a transfer may take the limit once more: 50 kB per second by default
# the waits of huggingface_hub's http_backoff, in seconds
_WAITS = (1.0, 2.0, 4.0, 8.0, 8.0)
_TRIES = 8  # a request that is repeated five times may take this part of the limit each time: 6 · 15 + 23 s < 120 s
T = TypeVar('T')


def limit() -> float:
    """Return the seconds that one request may take in all: IEBN_ZOO_HUB_TIMEOUT, or 120.

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
    """Return the seconds for one of up to six tries to read ``size`` bytes; with the waits they add up to the limit."""
    return limit() * (1 / _TRIES + size / _BYTES)


def transfer_limit(size: int) -> float:
    """Return the seconds for requests that carry ``size`` bytes."""
    return limit() * (1 + size / _BYTES)


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return ``call()``, or raise TimeoutError after ``seconds``; the call then goes on unwatched.

    It runs in a thread of its own, since nothing else ends a wait for a server that is slow but sends bytes.
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
        if outcome.done():  # the call itself raised it
            raise
        raise TimeoutError(f'no answer in {seconds:.0f} seconds') from None


def patiently(call: Callable[[], T], seconds: float, temporary: type) -> T:
    """Return ``call()``; repeat it with the waits of the client's own back-off while it raises ``temporary``.

    The client repeats uploads by itself, but not reads. All repetitions together take at most ``seconds``.
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
    """Let the client's session give up, inside the block, when no byte arrives for the limit or a part of it.

    Args:
        repeated: The client repeats the block's requests by itself: together they shall stay within the limit.
    """
    # the client makes a new session after a broken connection, so its factory must set the time-out
    previous = hub_client_factory()
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
