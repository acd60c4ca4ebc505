"""A tar of image files, and WebDataset shards, which are tars: key.jpg with its label in key.cls.

A sample's members follow one another and share a key, the path up to the first dot of its end; what
comes behind is a column (jpg, mask.png, cls). Numbers right behind the key belong to it here: in
n0001.0007.jpg the column is jpg.

An entry's place: [offset of its content, bytes].
"""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from dataprep.images.names import rule_of
from dataprep.manifest import DatasetError
from dataprep.sources import labels
from dataprep.sources.entry import (
    ANY,
    Asked,
    Entry,
    Passed,
    Refused,
    Said,
    check_size,
    clean,
    in_archive,
    labels_read,
)

MOST_COLUMNS = 1000  # sets of columns that are kept in mind
Item = Entry | Refused | Passed | Said
COLUMN = re.compile(r"((?:.*/)?[^/.]*(?:\.[0-9]+(?=\.))*)\.?([^/]*)", re.DOTALL)


def entries(path: Path, asked: Asked) -> Iterator[Item]:
    """Every file in the archive, with the labels of the samples where asked for."""
    sample, several = Sample("", asked, path), Several()
    for member, content in members(path, asked):
        if isinstance(member, Said):
            yield member
            continue
        key, column = COLUMN.fullmatch(member.name).groups()
        if key != sample.key:
            several.add(sample)
            yield from sample.items()
            sample = Sample(key, asked, path)
        sample.add(member, column, content)
    several.add(sample)
    yield from sample.items()
    if several.first and asked.image_column is None:
        raise DatasetError(
            f"{path}: the sample {several.first.key} holds several images, "
            f"{' and '.join(several.first.columns)}: choose one with --image-column "
            f"{several.first.columns[0]}, or say --image-column {ANY} where each is an image by "
            "itself"
        )


class Sample:
    """The members of one WebDataset sample; of another tar, files whose names begin alike."""

    def __init__(self, key: str, asked: Asked, path: Path):
        self.key, self.asked, self.path = key, asked, path
        self.images: list[tuple[str, Entry | Refused]] = []  # with their columns
        self.others: list[Passed] = []
        self.labels: dict[str, int | str | None] = {}  # by the name of the member

    @property
    def columns(self) -> list[str]:
        """Those that hold images."""
        return sorted({column for column, _ in self.images})

    def add(self, member: tarfile.TarInfo, column: str, content: bytes | None) -> None:
        name, wanted = member.name, self.asked.image_column
        rule = rule_of(name)
        if content is not None:
            self.labels[name] = self.label(column, content)
            self.others.append(labels_read(name))
        elif rule:
            self.others.append(Passed(name, rule))
        elif wanted not in (None, ANY, column):
            self.others.append(Passed(name, f".{column} beside the image"))
        elif not member.isreg() or member.issparse():
            reason = "not a regular file in the archive"
            self.images.append((column, Refused(name, "unreadable", reason)))
        else:
            place = [member.offset_data, member.size]
            self.images.append((column, in_archive(Entry(name, place))))

    def label(self, column: str, content: bytes) -> int | str | None:
        if column.rpartition(".")[2] == "json" and self.asked.label_column != column:
            return labels.of_json(content, self.asked.label_column or "label")
        return labels.of_text(content)

    def items(self) -> Iterator[Item]:
        """All of them, the images with their label."""
        yield from self.others
        for _, image in self.images:
            if isinstance(image, Entry) and self.labels:
                image = image._replace(label=self.label_of(image.name))
            yield image

    def label_of(self, name: str) -> int | str | None:
        """The label of the sample; of several, that with the image's name up to its ending."""
        found = {n: v for n, v in self.labels.items() if not n.endswith(".json")}
        found = found or self.labels
        if len(found) > 1:
            stem = name.rpartition(".")[0]
            found = {n: v for n, v in found.items() if n.rpartition(".")[0] == stem}
        if len(found) != 1:
            raise DatasetError(
                f"{self.path}: the sample {self.key} has several labels, {', '.join(self.labels)}: "
                "WebDataset takes what comes before the first dot of a name for its sample; name "
                "one with --label-column, or rename them"
            )
        return next(iter(found.values()))


class Several:
    """Whether samples hold several images: one of them may be a mask."""

    def __init__(self) -> None:
        self.columns: set[tuple[str, ...]] = set()  # those that one sample has
        self.first: Sample | None = None  # that is asked about

    def add(self, sample: Sample) -> None:
        """Files whose names begin alike need not be a sample, unless it has more than images, or
        another has images in the same columns."""
        found = tuple(sample.columns)
        if len(found) > 1 and (sample.others or found in self.columns):
            self.first = self.first or sample
        elif len(found) > 1 and len(self.columns) < MOST_COLUMNS:
            self.columns.add(found)


def members(path: Path, asked: Asked) -> Iterator[tuple[tarfile.TarInfo | Said, bytes | None]]:
    """Every member but the folders, hard links as what they link to, and what a label's holds."""
    places = None
    try:
        with tarfile.open(path, "r:") as archive:
            while member := archive.next():
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps a list of all that it has seen
                member.name = clean(member.name)
                content = None
                if member.islnk():
                    places = places or places_of(path)
                    linked(member, places)
                elif asked.labels and member.isreg() and holds_label(member.name, asked):
                    content = archive.extractfile(member).read(labels.MAX_BYTES)
                if not member.isdir():
                    yield member, content
            yield from end_of(archive, path)
    except tarfile.TarError as error:
        raise DatasetError(f"{path} is damaged ({error}): get it again") from None


def holds_label(name: str, asked: Asked) -> bool:
    column = COLUMN.fullmatch(name)[2]
    return column == asked.label_column or (
        rule_of(name) in (".cls", ".json")
        and (asked.label_column is None or rule_of(name) == ".json")
    )


def places_of(path: Path) -> dict[str, tuple[int, int]]:
    """Where the content of each regular member lies, by name."""
    with tarfile.open(path, "r:") as archive:
        return {clean(m.name): (m.offset_data, m.size) for m in archive if m.isreg()}


def linked(member: tarfile.TarInfo, places: dict[str, tuple[int, int]]) -> None:
    """Make a hard link to a member of the archive a regular one; any other stays a link."""
    place = places.get(clean(member.linkname))
    if place:
        member.type = tarfile.REGTYPE
        member.offset_data, member.size = place


def end_of(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[Said, None]]:
    """Check that the archive ends where tarfile says: with blocks of zeros, and nothing behind.

    To tarfile a damaged header looks like the end.
    """
    file = archive.fileobj
    file.seek(archive.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if any(block):
        raise DatasetError(f"{path} has a damaged header at byte {archive.offset:,}: get it again")
    if not block:
        yield Said(f"{path} has no mark at its end: it may be cut off"), None
    while block := file.read(2**20):
        if any(block):
            raise DatasetError(
                f"{path} goes on behind its end at byte {archive.offset:,}, as tars do that were "
                "put together with cat: give them one by one"
            )


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
