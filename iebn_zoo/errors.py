"""The two errors a user can meet, and the exit code each one becomes on the command line."""


class IEBNZooError(Exception):
    """Something failed that is not the command line's fault: a damaged file, a refused upload. Exit code 1.

    The message is at most three lines: the value, what was expected, what to do.
    """

    exit_code = 1


class UsageError(IEBNZooError, ValueError):
    """What was asked for cannot be: an unknown model, a missing directory, flags that contradict. Exit code 2."""

    exit_code = 2
