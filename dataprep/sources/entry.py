"""What a source tells of its files before any is read, and what all kinds of source share.

Each file of a source is one of three: an `Entry`, to be used; `Refused`, with a reason; or `Passed`
over by a rule. What is no file, and yet to be told, is `Said`.
"""

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from dataprep.images.decode import MAX_BYTES, BadImageError
from dataprep.images.names import rule_of

READ = "labels in "  # begins the rule of what is read, though it is no image
ANY = "any"  # as `image_column`: every image of a WebDataset sample is an image


class Asked(NamedTuple):
    """What is wanted of a source.

    `resolution` chooses among the files of a multi-resolution TFRecord set; `labels` asks for the
    labels stored in it; the columns are those of a table, or endings in a WebDataset sample.
    """

    resolution: int
    labels: bool = False
    image_column: str | None = None
    label_column: str | None = None


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


class Passed(NamedTuple):
    """A file that is passed over; `rule` is what a summary counts by."""

    name: str
    rule: str


class Said(NamedTuple):
    """A sentence about the source that its owner should read."""

    text: str


def sorted_in(entry: Entry) -> Entry | Passed:
    """The entry where its name is that of an image, else by which rule it is passed over."""
    rule = rule_of(entry.name)
    return Passed(entry.name, rule) if rule else entry


def labels_read(name: str) -> Passed:
    """What is told of a file that holds labels, where these are asked for."""
    return Passed(name, READ + os.path.splitext(name)[1].lower())


def clean(name: str) -> str:
    """A path without the parts `.`, as in ./faces/1.png, which is the file faces/1.png."""
    parts = name.split("/")
    if "." not in parts:
        return name
    root = "/" if name.startswith("/") else ""
    return root + "/".join(part for part in parts if part not in ("", "."))


def in_archive(entry: Entry) -> Entry | Refused:
    """The entry, unless its name leaves the archive: whoever packed that meant no good."""
    parts = entry.name.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        return Refused(entry.name, "name leaves the archive", "absolute, or with ..")
    return entry


def read_file(path: str | os.PathLike) -> bytes:
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
