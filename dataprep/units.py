"""A unit of work: from samples of the plan to tars and parts of betons.

A unit is finished when it has a record, which is written last, and every file in the record has its
sha256. Anything else is made again.

    records/train-000003.json
        files       the tars, as in the manifest
        parts       the parts of betons (dataprep/formats/beton.py), likewise
        rejects     [slot, name, kind, reason] of each rejected image
        sources     [slot, sha256 of the source's bytes] of each other image
        dropped     slots of images left out as duplicates
        not_square  slots of images that are in, and were cropped or padded
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dataprep.formats.beton import PartWriter
from dataprep.formats.tars import TarWriter
from dataprep.images import encode
from dataprep.images.decode import BadImageError, decode
from dataprep.images.pyramid import pyramid
from dataprep.plan import Plan, Sample, Unit
from dataprep.runtime.files import facts_of, write_file
from dataprep.runtime.pool import note
from dataprep.settings import RESOLUTIONS, Settings
from dataprep.sources import tfrecord
from dataprep.sources.source import Reader


class Task(NamedTuple):
    """A unit to make, without the samples in the slots `dropped`."""

    unit: Unit
    dropped: tuple[int, ...] = ()

    def __str__(self) -> str:
        return str(self.unit)


class Images:
    """Reads and decodes the images of a plan."""

    def __init__(self, plan: Plan):
        self.plan = plan

    @cached_property  # opened in each worker
    def reader(self) -> Reader:
        return Reader(self.plan.containers, self.plan.settings.image_column)

    def read(self, sample: Sample) -> bytes:
        """The bytes of an image in its source; BadImageError if they cannot be read."""
        try:
            return self.reader.read(sample.container, sample.entry)
        except OSError as error:
            raise BadImageError("unreadable", error.strerror or str(error)) from None

    def levels(self, sample: Sample, data: bytes) -> tuple[list[tuple[int, np.ndarray]], bool]:
        """(side, pixels) at every resolution, and whether the image was square; BadImageError if
        it cannot be used."""
        record = self.plan.containers[sample.container].kind == "tfrecord"
        pixels = tfrecord.pixels(data) if record else decode(data)
        settings = self.plan.settings
        levels = list(pyramid(pixels, settings.max_resolution, RESOLUTIONS[0], settings.crop))
        return levels, pixels.shape[0] == pixels.shape[1]


def make_unit(images: Images, folder: Path, task: Task) -> tuple[list, int]:
    """Write the files and the record of a unit to `folder`.

    Returns its rejects, as in the record, and the bytes read from the source.
    """
    unit = task.unit
    writers = Writers(folder, images.plan.settings, unit)
    rejects, sources, not_square, read = [], [], [], 0
    for sample in images.plan.samples(unit):
        note(sample.entry.name)
        try:
            data = images.read(sample)
            read += len(data)
            levels, square = images.levels(sample, data)
        except BadImageError as error:
            rejects.append([sample.slot, sample.entry.name, error.kind, str(error)])
            continue
        sources.append([sample.slot, hashlib.sha256(data).hexdigest()])
        if sample.slot not in task.dropped:
            not_square += [] if square else [sample.slot]
            for side, pixels in levels:
                writers.add(sample, side, pixels)
    files, parts = writers.close()
    record = {
        "files": files,
        "parts": parts,
        "rejects": rejects,
        "sources": sources,
        "dropped": task.dropped,
        "not_square": not_square,
    }
    write_file(record_path(folder, unit), json.dumps(record).encode("ascii"))
    return rejects, read


class Writers:
    """The files of a unit: at each resolution a tar (or more) and a part of a beton."""

    def __init__(self, folder: Path, settings: Settings, unit: Unit):
        self.settings, self.unit = settings, unit
        self.tars: dict[int, TarWriter] = {}
        self.parts: dict[int, PartWriter] = {}
        for side in settings.sides:
            if "webdataset" in settings.formats:
                name = f"webdataset/r{side:03d}/{unit}"
                self.tars[side] = TarWriter(folder, name, settings.shard_bytes)
            if "ffcv" in settings.formats:
                self.parts[side] = PartWriter(folder / self.part_path(side))

    def part_path(self, side: int) -> str:
        return f"parts/r{side:03d}/{self.unit}"

    def add(self, sample: Sample, side: int, pixels: np.ndarray) -> None:
        settings, lossy = self.settings, None
        if "jpeg" in (settings.tar_images, settings.beton_images):
            lossy = encode.jpeg(pixels, settings.jpeg_quality)
        if side in self.tars:
            codec = settings.tar_images
            image = lossy if codec == "jpeg" else getattr(encode, codec)(pixels)
            self.tars[side].add(sample.key, codec, image, sample.label)
        if side in self.parts:
            raw = settings.beton_images == "raw"
            image = np.ascontiguousarray(pixels).data.cast("B") if raw else lossy
            self.parts[side].add(image, sample.label)

    def close(self) -> tuple[list[dict], list[dict]]:
        """The manifest entries of the tars, and of the parts."""
        split = self.unit.split
        files = [
            entry(tar.pop("path"), "webdataset", side, split, **tar)
            for side, writer in self.tars.items()
            for tar in writer.close()
        ]
        parts = [
            entry(self.part_path(side), "ffcv", side, split, **writer.close())
            for side, writer in self.parts.items()
        ]
        return files, parts


def check_unit(images: Images, folder: Path, unit: Unit) -> list | None:
    """The rejects of a finished unit; None if it must be made (again).

    That includes a unit with a rejected image that was repaired meanwhile.
    """
    record = read_json(record_path(folder, unit))
    if record is None:
        return None
    if not all(intact(folder, file) for file in record["files"] + record["parts"]):
        return None
    rejected = {slot for slot, *_ in record["rejects"]}
    for sample in images.plan.samples(unit) if rejected else ():
        if sample.slot in rejected:
            with contextlib.suppress(BadImageError):
                images.levels(sample, images.read(sample))
                return None
    return record["rejects"]


def entry(path: str, format: str, side: int | None, split: str | None, **facts) -> dict[str, Any]:
    """The manifest entry of a file; `facts` are its samples, bytes and sha256."""
    return {"path": path, "format": format, "resolution": side, "split": split, **facts}


def intact(folder: Path, file: dict[str, Any]) -> bool:
    """Whether a file has the size and the sha256 of its manifest entry."""
    path = folder / file["path"]
    try:
        if path.stat().st_size != file["bytes"]:
            return False
    except OSError:
        return False
    return facts_of(path) == (file["bytes"], file["sha256"])


def record_path(folder: Path, unit: Unit) -> Path:
    return folder / "records" / f"{unit}.json"


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a record; None if it is missing or damaged."""
    try:
        return json.loads(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


def records(folder: Path, units: list[Unit]) -> Iterator[tuple[Unit, dict[str, Any]]]:
    """The record of each unit, one at a time; all must exist."""
    for unit in units:
        yield unit, read_json(record_path(folder, unit))
