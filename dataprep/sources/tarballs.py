"""A tar of image files, and WebDataset shards, which are tars: key.jpg with its label in key.cls.

An entry's place: [offset of its content, bytes].
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from dataprep.manifest import DatasetError
from dataprep.sources.entry import Entry, Refused, check_size, in_archive, is_image


def entries(path: Path, labels: bool) -> Iterator[Entry | Refused]:
    """All images in the archive, with the labels of the .cls beside them where asked for."""
    waiting: list[Entry] = []  # the images of one WebDataset sample, whose label may follow
    key, label = None, None
    for member, content in members(path, labels):
        if key_of(member.name) != key:
            yield from (entry._replace(label=label) for entry in waiting)
            waiting, key, label = [], key_of(member.name), None
        if content is not None:
            label = content
        elif is_image(member.name):
            entry = in_archive(Entry(member.name, [member.offset_data, member.size]))
            if isinstance(entry, Refused):
                yield entry
            elif not member.isreg() or member.issparse():
                yield Refused(entry.name, "unreadable", "not a regular file in the archive")
            else:
                waiting.append(entry)
    yield from (entry._replace(label=label) for entry in waiting)


def key_of(name: str) -> str:
    """What the members of a WebDataset sample share: the path up to the first dot of its end."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def members(path: Path, labels: bool) -> Iterator[tuple[tarfile.TarInfo, int | str | None]]:
    """Every member but the folders, and what a .cls holds where labels are asked for."""
    try:
        with tarfile.open(path, "r:") as archive:
            while member := archive.next():
                archive.members.clear()  # tarfile keeps a list of all that it has seen
                content = None
                if labels and member.isreg() and member.name.endswith(".cls"):
                    content = as_label(archive.extractfile(member).read(256))
                if not member.isdir():
                    yield member, content
            # A damaged header looks to tarfile like the end, which really is a block of zeros.
            archive.fileobj.seek(archive.offset)
            if any(archive.fileobj.read(tarfile.BLOCKSIZE)):
                raise DatasetError(
                    f"{path} has a damaged header at byte {archive.offset:,}: get it again"
                )
    except tarfile.TarError as error:
        raise DatasetError(f"{path} is damaged ({error}): get it again") from None


def as_label(content: bytes) -> int | str:
    text = content.decode("utf-8", "replace").strip()
    try:
        return int(text)
    except ValueError:
        return text


class Archive:
    """Reads the images of a tar."""

    def __init__(self, path: Path):
        self.file = path.open("rb")

    def read(self, entry: Entry) -> bytes:
        """The bytes of an image file; OSError or BadImageError where it cannot be had."""
        offset, size = entry.place
        check_size(size)
        self.file.seek(offset)
        data = self.file.read(size)
        if len(data) < size:
            raise OSError("cut off with the archive")
        return data

    def close(self) -> None:
        self.file.close()
