"""A lock on an output: one run at a time, or the tasks of one array together.

By hand, on flock: filelock has no shared locks without SQLite, and nothing for a lock file that its
holder removes.
"""

import contextlib
import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from dataprep.manifest import DatasetError

TIMEOUT = 3.0  # seconds, in which the workers of a killed run, which hold its lock, end


@contextlib.contextmanager
def locked(path: Path, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Lock the file `path`, `shared` or exclusively. The lock ends with the process.

    If another process has it, `wait`, or raise DatasetError. Prints a warning on a file system
    without locks.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            acquire(fd, path, shared, wait)
            if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
                yield
                return
        finally:
            os.close(fd)
        # The run that had it removed the file at its end: the lock is on a deleted file.


def acquire(fd: int, path: Path, shared: bool, wait: bool) -> None:
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = time.monotonic() + TIMEOUT
    try:
        while True:
            try:
                fcntl.flock(fd, how if wait else how | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DatasetError(
                        f"another run uses {path.parent.parent}: wait for it, or choose "
                        "another --out"
                    ) from None
                time.sleep(0.05)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
        print(
            f"warning: {path.parent} has no file locks: do not start a second run on it",
            file=sys.stderr,
        )
