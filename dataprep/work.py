"""What a worker does: one unit of work, from the plan's samples to tars and parts of betons.

What is done is told by a record, written last. A unit is finished when its record is there and
every file it lists has the sha256 it tells; anything else is done again.

    records/train-000003.json
        files     the tars, as the manifest will list them
        parts     of the betons, the same way (dataprep/formats/beton.py)
        rejects   [slot, name, kind, reason] of each image left out
        sources   [slot, sha256 of the source's bytes] of each image that is in
        dropped   slots of images left out because others have the same bytes
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
from dataprep.runtime.files import facts_of, write_whole
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


def record_path(folder: Path, unit: Unit) -> Path:
    return folder / "records" / f"{unit}.json"


def read_record(folder: Path, unit: Unit) -> dict[str, Any] | None:
    """What was written of a finished unit; None where it is not there, or damaged."""
    return read_json(record_path(folder, unit))


def read_json(path: Path) -> dict[str, Any] | None:
    """What a record holds; None where it is not there, or damaged."""
    try:
        return json.loads(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


class Images:
    """Reads and decodes images of the plan in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property  # opened in the worker, not sent to it
    def plan(self) -> Plan:
        return Plan(self.folder / "plan")

    @cached_property
    def reader(self) -> Reader:
        return Reader(self.plan.containers, self.plan.settings.image_column)

    def read(self, sample: Sample) -> bytes:
        """The bytes of an image in its source; BadImageError where they cannot be had."""
        try:
            return self.reader.read(sample.container, sample.entry)
        except OSError as error:
            raise BadImageError("unreadable", error.strerror or str(error)) from None

    def levels(self, sample: Sample, data: bytes) -> tuple[list[tuple[int, np.ndarray]], bool]:
        """(side, pixels) at every resolution, and whether the image was square; BadImageError
        where it cannot be used."""
        record = self.plan.containers[sample.container].kind == "tfrecord"
        pixels = tfrecord.pixels(data) if record else decode(data)
        settings = self.plan.settings
        levels = list(pyramid(pixels, settings.max_resolution, RESOLUTIONS[0], settings.crop))
        return levels, pixels.shape[0] == pixels.shape[1]


class Maker(Images):
    """Makes units: `Maker(folder)(task)` writes below `folder`, where its plan lies.

    What comes back are the rejects of the unit, and the bytes read from the source.
    """

    def __call__(self, task: Task) -> tuple[list, int]:
        unit, settings = task.unit, self.plan.settings
        writers = Writers(self.folder, settings, unit)
        rejects, sources, not_square, read = [], [], [], 0
        try:
            for sample in self.plan.samples(unit):
                note(sample.entry.name)
                try:
                    data = self.read(sample)
                    read += len(data)
                    levels, square = self.levels(sample, data)
                except BadImageError as error:
                    rejects.append([sample.slot, sample.entry.name, error.kind, str(error)])
                    continue
                sources.append([sample.slot, hashlib.sha256(data).hexdigest()])
                if sample.slot not in task.dropped:
                    not_square += [] if square else [sample.slot]
                    for side, pixels in levels:
                        writers.add(sample, side, pixels)
            files, parts = writers.close()
        except BaseException:
            writers.abandon()
            raise
        record = {
            "files": files,
            "parts": parts,
            "rejects": rejects,
            "sources": sources,
            "dropped": list(task.dropped),
            "not_square": not_square,
        }
        write_whole(record_path(self.folder, unit), json.dumps(record).encode("ascii"))
        return rejects, read


class Writers:
    """The files of one unit: at each resolution a tar (or more) and a part of a beton."""

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
        how = self.settings
        lossy = None
        if "jpeg" in (how.tar_images, how.beton_images):
            lossy = encode.jpeg(pixels, how.jpeg_quality)
        if side in self.tars:
            image = lossy if how.tar_images == "jpeg" else getattr(encode, how.tar_images)(pixels)
            self.tars[side].add(sample.key, how.tar_images, image, sample.label)
        if side in self.parts:
            raw = how.beton_images == "raw"
            image = np.ascontiguousarray(pixels).data.cast("B") if raw else lossy
            self.parts[side].add(image, sample.label)

    def close(self) -> tuple[list[dict], list[dict]]:
        """The entries of the tars and of the parts, as the record lists them."""
        files = [
            entry(tar.pop("path"), "webdataset", side, self.unit.part, **tar)
            for side, writer in self.tars.items()
            for tar in writer.close()
        ]
        parts = [
            entry(self.part_path(side), "ffcv", side, self.unit.part, **writer.close())
            for side, writer in self.parts.items()
        ]
        return files, parts

    def abandon(self) -> None:
        for writer in (*self.tars.values(), *self.parts.values()):
            writer.abandon()


def entry(path: str, format: str, side: int | None, part: str | None, **facts) -> dict[str, Any]:
    """A file as the manifest lists it; `facts` are its samples, bytes and sha256."""
    return {"path": path, "format": format, "resolution": side, "split": part, **facts}


class Checker(Images):
    """Tells whether a unit is finished: `Checker(folder)(unit)` re-reads its files.

    What comes back is the list of its rejects, or None where it must be made (again): also where
    one of the rejects can be used by now, since somebody has repaired it.
    """

    def __call__(self, unit: Unit) -> list | None:
        record = read_record(self.folder, unit)
        if record is None:
            return None
        if not all(intact(self.folder, file) for file in record["files"] + record["parts"]):
            return None
        rejected = {slot for slot, *_ in record["rejects"]}
        for sample in self.plan.samples(unit) if rejected else ():
            if sample.slot in rejected:
                with contextlib.suppress(BadImageError):
                    self.levels(sample, self.read(sample))
                    return None
        return record["rejects"]


def intact(folder: Path, file: dict[str, Any]) -> bool:
    """Whether a file has the size and the sha256 that its entry tells."""
    path = folder / file["path"]
    try:
        if path.stat().st_size != file["bytes"]:
            return False
    except OSError:
        return False
    return facts_of(path) == (file["bytes"], file["sha256"])


def records(folder: Path, units: list[Unit]) -> Iterator[tuple[Unit, dict[str, Any]]]:
    """The record of each unit, one at a time; all of them must be there."""
    for unit in units:
        yield unit, read_record(folder, unit)
