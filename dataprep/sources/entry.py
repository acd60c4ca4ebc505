"""What a source tells of an image before reading it, and what all kinds of source share."""

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from dataprep.images.decode import MAX_BYTES, BadImageError

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class Entry(NamedTuple):
    """One image: its name inside the source, where it lies, and the label stored with it.

    `place` is for the module that made it, and JSON; `label` is a number, a text or None.
    """

    name: str
    place: Sequence[int] = ()
    label: int | str | None = None


class Refused(NamedTuple):
    """An image that is out before it is read; `kind` is what a summary counts by."""

    name: str
    kind: str
    reason: str


def is_image(name: str) -> bool:
    """Whether a path inside a source is taken for an image: by its ending, hidden files apart."""
    if not name.lower().endswith(ENDINGS):
        return False
    return not any(
        (part.startswith(".") and not part.startswith("..")) or part == "__MACOSX"
        for part in name.split("/")
    )


def in_archive(entry: Entry) -> Entry | Refused:
    """The entry, unless its name leaves the archive: whoever packed that meant no good."""
    parts = entry.name.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        return Refused(entry.name, "name leaves the archive", "absolute, or with ..")
    return entry


def read_file(path: str) -> bytes:
    """The bytes of a regular file; OSError where it cannot be read, BadImageError if far too big.

    Never waits: what is no regular file (a named pipe, say) is refused.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        check_size(status.st_size)
        return file.read()


def check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise BadImageError("decompression bomb", f"{size:,} bytes are more than {MAX_BYTES:,}")
