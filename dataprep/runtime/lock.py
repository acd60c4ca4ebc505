"""One run at a time on one output; it ends with the process, however that ends."""

import contextlib
import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from dataprep.manifest import DatasetError

PATIENCE = 3.0  # seconds: workers of a killed run, which hold its lock too, soon see that and end


@contextlib.contextmanager
def locked(path: Path, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`: `shared` with others that share it, or alone.

    Where another process holds it: `wait` for its end, or DatasetError. A file system without locks
    gets a warning.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            take(fd, path, shared, wait)
            if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
                yield
                return
        finally:
            os.close(fd)
        # The run that held it has just removed it at its end: what is locked is no longer there.


def take(fd: int, path: Path, shared: bool, wait: bool) -> None:
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                fcntl.flock(fd, how if wait else how | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DatasetError(
                        f"another run is at work on {path.parent.parent}: wait for it, or choose "
                        "another --out"
                    ) from None
                time.sleep(0.05)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
        print(f"warning: {path.parent} knows no locks; start no second run on it", file=sys.stderr)
