"""Files that appear whole or not at all, with their size and sha256."""

import contextlib
import errno
import hashlib
import os
import socket
from pathlib import Path
from typing import NamedTuple

from dataprep.manifest import DatasetError

BLOCK = 2**20
PARTIAL = ".partial"  # the ending of what is being written
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Facts(NamedTuple):
    """Size in bytes and sha256 of a file."""

    bytes: int
    sha256: str


class HashingFile:
    """A file written from its first byte to its last, beside its place until `close()`.

    A `passing` one is soon read again and then removed, so it need not reach the disk.
    """

    def __init__(self, path: Path, passing: bool = False):
        self.path, self.passing = path, passing
        # Two processes may make the same file (a task run twice): neither disturbs the other.
        self.beside = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}{PARTIAL}")
        self.file = open_to_write(self.beside)
        self.hash = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        try:
            self.file.write(data)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self.hash.update(data)
        self.bytes += len(data)

    def close(self) -> Facts:
        """Put the file in its place."""
        try:
            self.file.flush()
            if not self.passing:
                begin_to_store(self.file.fileno())
            self.file.close()
            self.beside.rename(self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        return Facts(self.bytes, self.hash.hexdigest())

    def abandon(self) -> None:
        """Remove what was written; its place stays as it was."""
        with contextlib.suppress(OSError):  # the same full disk as before
            self.file.close()
        self.beside.unlink(missing_ok=True)


def open_to_write(path: Path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb", buffering=BLOCK)
    except OSError as error:
        raise cannot_write(path, error) from None


def write_whole(path: Path, content: bytes) -> Facts:
    """Make a small file at once, in place of one that may be there."""
    file = HashingFile(path)
    file.write(content)
    return file.close()


def cannot_write(path: Path, error: OSError) -> DatasetError:
    """What to tell the user when writing fails."""
    if error.errno in FULL:
        return DatasetError(
            f"{path} cannot be written: {error.strerror}; free some space and run the same command "
            "again: it goes on from here"
        )
    return DatasetError(f"{path} cannot be written: {error.strerror or error}")


def begin_to_store(fd: int) -> None:
    """Start writing to the disk, without waiting: less is left for the fsync at the end.

    POSIX_FADV_DONTNEED does that on Linux; as a file of ours is not read again soon, dropping it
    from the page cache, which it also means, is no loss.
    """
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def store(path: Path) -> None:
    """Wait until a file, or the names in a folder, would outlast a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        os.close(fd)


def facts_of(path: Path) -> Facts | None:
    """Size and sha256 of a file as it lies on the disk; None where it cannot be read."""
    hashed = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK):
                hashed.update(block)
            return Facts(file.tell(), hashed.hexdigest())
    except OSError:
        return None
