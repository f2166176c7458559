"""The lock on a run directory: two runs in it would mix their checkpoints and logs."""
import errno
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Optional, Set

from iebn_zoo.util.errors import IEBNZooError, UsageError

try:
    import fcntl
except ImportError:  # not POSIX: there is no lock
    fcntl = None

LOCK = '.lock'
_HELD_ELSEWHERE = {errno.EAGAIN, errno.EACCES}
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
_ours: Set[Path] = set()  # a record lock does not keep out the process that has it


class RunLock:
    """A record lock on ``RUN/.lock``, from ``acquire`` to ``release`` or the death of the process, SIGKILL included.

    It is a record lock (``lockf``), not ``flock``: it works over NFS, and loader processes, which may outlive a killed
    run by seconds, do not inherit it. The file stays: to remove it would let two processes lock two files of the same
    name. Where the file system has no locks, a warning on stderr says so.
    """

    def __init__(self) -> None:
        self.path: Optional[Path] = None
        self.fd = -1

    def acquire(self, directory: Path) -> None:
        """Lock ``directory``, which exists; a second call does nothing.

        Raises:
            UsageError: Another run has the lock.
            IEBNZooError: The lock file cannot be written.
        """
        if fcntl is None or self.path is not None:
            return
        path = directory.resolve() / LOCK
        if path in _ours:
            raise _taken(directory, f'this process, {os.getpid()}')
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as e:
            raise IEBNZooError(f'cannot write {path}: {e.strerror or e}.\nGive --output a writable place.') from e
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            owner = os.read(fd, 200).decode(errors='replace').strip()
            os.close(fd)
            if e.errno in _HELD_ELSEWHERE:
                raise _taken(directory, owner or 'of unknown name') from e
            if e.errno in _NO_LOCKS_HERE:
                print(f'warning: {directory} is on a file system without locks. Make sure that no other run writes it.',
                      file=sys.stderr, flush=True)
                return
            raise IEBNZooError(f'cannot lock {path}: {e.strerror or e}.\nGive --output another place.') from e
        self.path, self.fd = path, fd
        _ours.add(path)
        with suppress(OSError):  # a help for people; the disk may be full
            os.ftruncate(fd, 0)
            os.write(fd, f'process {os.getpid()} on {socket.gethostname()}\n'.encode())

    def release(self) -> None:
        """Release the lock, if there is one."""
        if self.path is None:
            return
        _ours.discard(self.path)
        with suppress(OSError):
            os.ftruncate(self.fd, 0)
        with suppress(OSError):  # an error here must not hide why the run ends
            os.close(self.fd)
        self.path, self.fd = None, -1


def _taken(directory: Path, owner: str) -> UsageError:
    return UsageError(f'another run is writing {directory} ({owner}).\n'
                      f'Wait for it or stop it, or give another --output.')
