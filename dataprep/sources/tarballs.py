"""A tar of image files, and WebDataset shards, which are tars: key.jpg with its label in key.cls.

The members of a sample are consecutive and share a key: the path up to the first dot of the file
name. The rest is a column (jpg, mask.png, cls). Numbers after the key belong to it: the column of
n0001.0007.jpg is jpg.

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
    Entry,
    Note,
    Options,
    Reject,
    Skipped,
    check_size,
    checked_name,
    label_file,
    normalized,
)

MAX_COLUMN_SETS = 1000  # that are remembered
Item = Entry | Reject | Skipped | Note
COLUMN = re.compile(r"((?:.*/)?[^/.]*(?:\.[0-9]+(?=\.))*)\.?([^/]*)", re.DOTALL)


def entries(path: Path, options: Options) -> Iterator[Item]:
    """All files in the archive, with the labels of the samples if `options.labels`."""
    sample, several = Sample("", options, path), Several()
    for member, content in members(path, options):
        if isinstance(member, Note):
            yield member
            continue
        key, column = COLUMN.fullmatch(member.name).groups()
        if key != sample.key:
            several.add(sample)
            yield from sample.items()
            sample = Sample(key, options, path)
        sample.add(member, column, content)
    several.add(sample)
    yield from sample.items()
    if several.first and options.image_column is None:
        raise DatasetError(
            f"{path}: the sample {several.first.key} holds several images, "
            f"{' and '.join(several.first.columns)}: choose one with --image-column "
            f"{several.first.columns[0]}, or say --image-column {ANY} where each is an image by "
            "itself"
        )


class Sample:
    """The members of a WebDataset sample or, in other tars, files with a common prefix."""

    def __init__(self, key: str, options: Options, path: Path):
        self.key, self.options, self.path = key, options, path
        self.images: list[tuple[str, Entry | Reject]] = []  # with their columns
        self.others: list[Skipped] = []
        self.labels: dict[str, int | str | None] = {}  # by the name of the member

    @property
    def columns(self) -> list[str]:
        """The columns of images."""
        return sorted({column for column, _ in self.images})

    def add(self, member: tarfile.TarInfo, column: str, content: bytes | None) -> None:
        name, wanted = member.name, self.options.image_column
        rule = rule_of(name)
        if content is not None:
            self.labels[name] = self.label(column, content)
            self.others.append(label_file(name))
        elif rule:
            self.others.append(Skipped(name, rule))
        elif wanted not in (None, ANY, column):
            self.others.append(Skipped(name, f".{column} beside the image"))
        elif not member.isreg() or member.issparse():
            reason = "not a regular file in the archive"
            self.images.append((column, Reject(name, "unreadable", reason)))
        else:
            place = [member.offset_data, member.size]
            self.images.append((column, checked_name(Entry(name, place))))

    def label(self, column: str, content: bytes) -> int | str | None:
        if column.rpartition(".")[2] == "json" and self.options.label_column != column:
            return labels.of_json(content, self.options.label_column or "label")
        return labels.of_text(content)

    def items(self) -> Iterator[Item]:
        """All members; images have their label."""
        yield from self.others
        for _, image in self.images:
            if isinstance(image, Entry) and self.labels:
                image = image._replace(label=self.label_of(image.name))
            yield image

    def label_of(self, name: str) -> int | str | None:
        """The label of the sample; of several, the one with the image's name."""
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
    """Finds samples with several images, of which one may be a mask."""

    def __init__(self) -> None:
        self.columns: set[tuple[str, ...]] = set()  # those that one sample has
        self.first: Sample | None = None  # with several images

    def add(self, sample: Sample) -> None:
        """Files with a common prefix are a sample if not all are images, or if another sample has
        images in the same columns."""
        found = tuple(sample.columns)
        if len(found) > 1 and (sample.others or found in self.columns):
            self.first = self.first or sample
        elif len(found) > 1 and len(self.columns) < MAX_COLUMN_SETS:
            self.columns.add(found)


def members(path: Path, options: Options) -> Iterator[tuple[tarfile.TarInfo | Note, bytes | None]]:
    """All members but folders, hard links resolved, with the content of those that hold labels."""
    places = None
    try:
        with tarfile.open(path, "r:") as archive:
            while member := archive.next():
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps a list of all that it has seen
                member.name = normalized(member.name)
                content = None
                if member.islnk():
                    places = places or places_of(path)
                    linked(member, places)
                elif options.labels and member.isreg() and holds_label(member.name, options):
                    content = archive.extractfile(member).read(labels.MAX_BYTES)
                if not member.isdir():
                    yield member, content
            yield from end_of(archive, path)
    except tarfile.TarError as error:
        raise DatasetError(f"{path} is damaged ({error}): download it again") from None


def holds_label(name: str, options: Options) -> bool:
    column = COLUMN.fullmatch(name)[2]
    return column == options.label_column or (
        rule_of(name) in (".cls", ".json")
        and (options.label_column is None or rule_of(name) == ".json")
    )


def places_of(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of the content of each regular member, by name."""
    with tarfile.open(path, "r:") as archive:
        return {normalized(m.name): (m.offset_data, m.size) for m in archive if m.isreg()}


def linked(member: tarfile.TarInfo, places: dict[str, tuple[int, int]]) -> None:
    """Turn a hard link to a member of the archive into a regular member."""
    place = places.get(normalized(member.linkname))
    if place:
        member.type = tarfile.REGTYPE
        member.offset_data, member.size = place


def end_of(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[Note, None]]:
    """Check that the archive ends with blocks of zeros, where tarfile stopped, and nothing follows.

    (To tarfile, a damaged header looks like the end.)
    """
    file = archive.fileobj
    file.seek(archive.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if any(block):
        raise DatasetError(
            f"{path} has a damaged header at byte {archive.offset:,}: download it again"
        )
    if not block:
        yield Note(f"{path} has no end mark: it may be cut off"), None
    while block := file.read(2**20):
        if any(block):
            raise DatasetError(
                f"{path} continues after its end at byte {archive.offset:,}, as tars that were "
                "concatenated with cat: list them one by one"
            )


class Archive:
    """Reads the images of a tar."""

    def __init__(self, path: Path):
        self.file = path.open("rb")

    def read(self, entry: Entry) -> bytes:
        """The bytes of an image file; OSError or BadImageError if it cannot be read."""
        offset, size = entry.place
        check_size(size)
        self.file.seek(offset)
        data = self.file.read(size)
        if len(data) < size:
            raise OSError("cut off with the archive")
        return data

    def close(self) -> None:
        self.file.close()
