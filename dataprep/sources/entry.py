"""What a source lists before any image is read, and what all kinds of source share.

Each file of a source is an `Entry`, which is used; a `Reject`, with its reason; or `Skipped` by a
rule. A `Note` is not a file, but something that the user should know.
"""

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from dataprep.images.decode import MAX_BYTES, BadImageError
from dataprep.images.names import rule_of
from dataprep.rejects import Reject

READ = "labels in "  # begins the rule of a file that is read, but is not an image
ANY = "any"  # as `image_column`: each image of a WebDataset sample is one of the data set


class Options(NamedTuple):
    """How to list a source.

    `resolution` chooses among the files of a multi-resolution TFRecord set; `labels` is whether to
    read stored labels; the columns are of a table, or extensions in a WebDataset sample.
    """

    resolution: int
    labels: bool = False
    image_column: str | None = None
    label_column: str | None = None


class Entry(NamedTuple):
    """An image: its name in the source, its place there, and the label stored with it.

    `place` is JSON that only the module that made it reads.
    """

    name: str
    place: Sequence[int] = ()
    label: int | str | None = None


class Skipped(NamedTuple):
    """A file that is not used; summaries count by `rule`."""

    name: str
    rule: str


class Note(NamedTuple):
    """A sentence about the source that the user should read."""

    text: str


def entry_or_skipped(entry: Entry) -> Entry | Skipped:
    """The entry if its name is that of an image, else the rule that skips it."""
    rule = rule_of(entry.name)
    return Skipped(entry.name, rule) if rule else entry


def label_file(name: str) -> Skipped:
    """A file that labels were read from."""
    return Skipped(name, READ + os.path.splitext(name)[1].lower())


def normalized(name: str) -> str:
    """A path without `.` parts: ./faces/1.png is faces/1.png."""
    parts = name.split("/")
    if "." not in parts:
        return name
    root = "/" if name.startswith("/") else ""
    return root + "/".join(part for part in parts if part not in ("", "."))


def checked_name(entry: Entry) -> Entry | Reject:
    """The entry, or a reject if its name points outside the archive, as in an attack."""
    parts = entry.name.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        return Reject(entry.name, "name leaves the archive", "absolute, or with ..")
    return entry


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of a regular file; OSError if it cannot be read, BadImageError if it is too large.

    Never blocks: anything but a regular file (a named pipe, say) raises OSError.
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
