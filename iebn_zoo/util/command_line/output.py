"""Standard output and error that cannot be written: a full disk under a log, or a reader that has gone."""
import os
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, Iterator, Optional, TextIO

from iebn_zoo.util.errors import IEBNZooError


class Watched:
    """A stream that keeps its first error. An ``OSError`` names no stream: this tells whether it came from here.

    Attributes:
        error: The first error, or None.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.error: Optional[OSError] = None

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError as e:
            self.error = self.error or e
            raise

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as e:
            self.error = self.error or e
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Surviving(Watched):
    """A stream that drops what it is given from its first error on."""

    def __init__(self, stream: TextIO, name: str) -> None:
        super().__init__(stream)
        self.name = name

    def write(self, text: str) -> int:
        if self.error is None:
            try:
                return super().write(text)
            except OSError as e:
                self._give_up(e)
        return len(text)

    def flush(self) -> None:
        if self.error is None:
            try:
                super().flush()
            except OSError as e:
                self._give_up(e)

    def _give_up(self, error: OSError) -> None:
        print(f'warning: {self.name} cannot be written ({error.strerror or error}). The command goes on without it.',
              file=sys.stderr, flush=True)  # for standard error itself this comes here again, and is dropped


@contextmanager
def surviving_output() -> Iterator[None]:
    """Let the block go on, as a training of days should, where its standard output or error cannot be written.

    Raises:
        IEBNZooError: The block has ended well, and a part of its standard output is lost.
    """
    out, err = _Surviving(sys.stdout, 'standard output'), _Surviving(sys.stderr, 'standard error')
    with redirect_stdout(out), redirect_stderr(err):  # type: ignore[type-var]
        yield
        out.flush()
    if out.error is not None:
        gone = isinstance(out.error, BrokenPipeError)
        raise IEBNZooError(f'standard output could not be written ({out.error.strerror or out.error}), and a part of '
                           f'it is lost.\nEverything else was done. Write it to '
                           f'{"a file, or to a program that reads it to its end" if gone else "a place with room"}.'
                           ) from out.error


def tell(text: str) -> None:
    """Print a line to standard error, if that can be written."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _drop_buffer(sys.stderr)


def drop_unwritable() -> Optional[OSError]:
    """Drop what is left in the buffer of standard output if it cannot be written, so that the interpreter does not fail
    over it at its end; return why, or None if there was no error. The same is done for standard error."""
    try:
        sys.stderr.flush()
    except OSError:
        _drop_buffer(sys.stderr)
    try:
        sys.stdout.flush()
    except OSError as e:
        _drop_buffer(sys.stdout)
        return e
    return None


def _drop_buffer(stream: TextIO) -> None:
    with suppress(OSError, ValueError, AttributeError), open(os.devnull, 'wb') as nothing:
        os.dup2(nothing.fileno(), stream.fileno())  # a stream that is no file has no number
