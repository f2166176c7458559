"""The two errors a user can meet, and the exit code each one becomes on the command line."""


class IEBNZooError(Exception):
    """A failure that the command line did not cause: a damaged file, a refused upload. Exit code 1.

    The message is at most three lines: the value, what was expected, what to do.
    """

    exit_code = 1


class UsageError(IEBNZooError, ValueError):
    """A request that cannot be met: an unknown model, a missing directory, flags that contradict. Exit code 2."""

    exit_code = 2


def first_line(error: BaseException, length: int = 300) -> str:
    """Return the first line of an error's message, or its kind if it has none, in at most ``length`` characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= length else text[:length - 3] + '...'


def kind_and_line(error: BaseException, length: int = 160) -> str:
    """Return the kind of an error and the first line of its message, in at most ``length`` characters, for an error of
    another library whose message alone may say little."""
    kind, text = type(error).__name__, first_line(error, length)
    return kind if text == kind else f'{kind}: {text}'
