"""One writer a run directory: two runs in it would mix their checkpoints and logs."""
import errno
import os
import socket
from pathlib import Path
from typing import Optional

from iebn_zoo.errors import IEBNZooError, UsageError

try:
    import fcntl
except ImportError:  # not POSIX: nothing is locked there
    fcntl = None

LOCK = '.lock'
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


class RunLock:
    """A record lock on ``RUN/.lock``, from ``acquire`` to ``release`` or the death of the process, SIGKILL included.

    A record lock (``lockf``) and not ``flock``: it works over NFS, and the loader processes do not inherit it, which
    may outlive a killed run by seconds. Where the file system has no locks, nothing is locked.
    """

    def __init__(self) -> None:
        self.path: Optional[Path] = None
        self.fd = -1

    def acquire(self, directory: Path) -> None:
        """Lock ``directory``, which exists; a second call does nothing.

        Raises:
            UsageError: Another process has it.
            IEBNZooError: The lock file cannot be written.
        """
        if fcntl is None or self.fd >= 0:
            return
        path = directory / LOCK
        while True:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as e:
                raise IEBNZooError(f'cannot write {path}: {e.strerror or e}.\nGive --output a writable place.') from e
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                owner = os.read(fd, 200).decode(errors='replace').strip()
                os.close(fd)
                if e.errno in _NO_LOCKS_HERE:
                    return
                raise UsageError(
                    f'another run is writing {directory} ({owner or "of unknown name"}).\n'
                    f'Wait for it or stop it, or give another --output.') from e
            if _is_still(path, fd):
                break
            os.close(fd)  # its owner removed it between our opening and our locking
        os.ftruncate(fd, 0)
        os.write(fd, f'process {os.getpid()} on {socket.gethostname()}\n'.encode())
        self.path, self.fd = path, fd

    def release(self) -> None:
        """Unlock and remove the file; nothing where nothing is locked."""
        if self.fd < 0:
            return
        self.path.unlink(missing_ok=True)  # while it is still ours
        os.close(self.fd)
        self.fd = -1


def _is_still(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
