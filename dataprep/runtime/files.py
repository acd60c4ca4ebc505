"""Files and folders that appear whole or not at all; files with their size and sha256."""

import contextlib
import errno
import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dataprep.manifest import DatasetError

BLOCK = 2**20
PARTIAL = ".partial"  # suffix of a file that is being written
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Facts(NamedTuple):
    """Size and sha256 of a file."""

    bytes: int
    sha256: str


class HashingFile:
    """A file that is hashed while it is written; `close()` renames it to `path`.

    A `temporary` file is soon read and removed, so its write-back to the disk is not started.
    """

    def __init__(self, path: Path, temporary: bool = False):
        self.path, self.temporary = path, temporary
        # The name is unique: two processes may make the same file, where a task is run twice.
        self.partial = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}{PARTIAL}")
        self.hash = hashlib.sha256()
        self.bytes = 0
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.partial.open("wb", buffering=BLOCK)

    def write(self, data: bytes | memoryview) -> None:
        with explained(self.path):
            self.file.write(data)
        self.hash.update(data)
        self.bytes += len(data)

    def close(self) -> Facts:
        with explained(self.path):
            self.file.flush()
            if not self.temporary:
                start_write_back(self.file.fileno())
            self.file.close()
            self.partial.rename(self.path)
        return Facts(self.bytes, self.hash.hexdigest())


@contextlib.contextmanager
def whole(out: Path) -> Iterator[Path]:
    """Yields a path to write a file or a folder at, which becomes `out` on success.

    FileExistsError if `out` is there already. A failure leaves nothing.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already: remove it, or choose another path")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
        yield Path(beside, out.name)
        os.rename(Path(beside, out.name), out)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError into a DatasetError that names the file and the way out."""
    try:
        yield
    except OSError as error:
        reason = f"{path} cannot be written: {error.strerror or error}"
        if error.errno in DISK_FULL:
            reason += "; free some space and run the same command again to resume"
        raise DatasetError(reason) from None


def write_file(path: Path, content: bytes) -> Facts:
    file = HashingFile(path)
    file.write(content)
    return file.close()


def start_write_back(fd: int) -> None:
    """Start writing to the disk without waiting, so that the fsync at the end has less to do.

    POSIX_FADV_DONTNEED does that on Linux. It also drops the file from the page cache, which costs
    nothing, as the file is not read again soon.
    """
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        with explained(path):
            os.fsync(fd)
    finally:
        os.close(fd)


def facts_of(path: Path) -> Facts | None:
    """Size and sha256 of a file on the disk; None if it cannot be read."""
    hashed = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK):
                hashed.update(block)
            return Facts(file.tell(), hashed.hexdigest())
    except OSError:
        return None
