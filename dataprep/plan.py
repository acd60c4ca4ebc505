"""What is to be made of a source: which image is which sample, of which split, with which label.

The plan lies on the disk, since a source may have more names than memory holds:

    plan.json                   settings, versions, containers, split, classes, numbers
    {train,test}.jsonl          [name, container, place, label] of each sample, in order
    {train,test}.offsets        where each unit of work begins in that file, int64
    refused.jsonl               images that are out before they are read, with the reason

A unit of work is `shard_samples` consecutive samples of a split: one tar at each resolution. It is
what one worker does at a time, and what is done again if it was not finished.
"""

import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from dataprep import split
from dataprep.manifest import SPLITS, DatasetError
from dataprep.runtime.files import store
from dataprep.runtime.sort import external_sort, read_rows, write_rows
from dataprep.settings import Settings, versions
from dataprep.sources import parquet
from dataprep.sources.entry import Entry, Refused
from dataprep.sources.source import Container, listing


class Sample(NamedTuple):
    """One image of the source; its slot is its place in its split; label -1 says it has none."""

    entry: Entry
    container: int
    slot: int
    label: int

    @property
    def key(self) -> str:
        """Its name in the tars: a number, since not every name of a file is legal there."""
        return f"{self.slot:09d}"


class Unit(NamedTuple):
    """A unit of work: its split and its number in it."""

    part: str
    number: int

    def __str__(self) -> str:
        return f"{self.part}-{self.number:06d}"


class Plan:
    """A finished plan in `folder`. Make it with `Plan.make`."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.content: dict[str, Any] = json.loads((folder / "plan.json").read_text("ascii"))
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{folder / 'plan.json'} cannot be read ({error}): remove {folder.parent} and run "
                "the same command again"
            ) from None
        self.settings = Settings.from_json(self.content["settings"])
        self.containers = [Container(*values) for values in self.content["containers"]]

    @classmethod
    def make(
        cls,
        source: str,
        settings: Settings,
        folder: Path,
        listed: Callable[[int], None] = lambda count: None,
    ) -> "Plan":
        """List `source` and plan it in `folder`, which appears whole or not at all.

        `listed` is told the number of images now and then. DatasetError where the source cannot be
        listed, holds no images, or does not fit the settings.
        """
        making = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        try:
            containers = write_sorted(source, settings, making, listed)
            content = write_splits(source, settings, making, containers)
            (making / "plan.json").write_text(json.dumps(content, indent=1), "ascii")
            (making / "sorted.jsonl").unlink()
            for path in (*making.iterdir(), making):
                store(path)
            if not folder.exists():  # another task of the same array may have been faster
                making.rename(folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
        return cls(folder)

    @property
    def counts(self) -> dict[str, int]:
        """Samples planned in each split."""
        return self.content["samples"]

    @property
    def images(self) -> int:
        """Images found in the source, whatever becomes of them."""
        return sum(self.counts.values()) + self.content["refused"]

    @property
    def units(self) -> list[Unit]:
        size = self.settings.shard_samples
        return [Unit(p, n) for p in SPLITS for n in range(-(-self.counts[p] // size))]

    @cached_property
    def offsets(self) -> dict[str, "array[int]"]:
        found = {}
        for part in SPLITS:
            found[part] = array("q", (self.folder / f"{part}.offsets").read_bytes())
        return found

    def samples(self, unit: Unit) -> Iterator[Sample]:
        """The samples of a unit, in order."""
        first = unit.number * self.settings.shard_samples
        last = min(first + self.settings.shard_samples, self.counts[unit.part])
        with (self.folder / f"{unit.part}.jsonl").open("rb") as file:
            file.seek(self.offsets[unit.part][unit.number])
            for slot in range(first, last):
                name, container, place, label = json.loads(file.readline())
                yield Sample(Entry(name, place), container, slot, label)

    def refused(self) -> Iterator[Refused]:
        """The images that are out before they are read, by name."""
        return (Refused(*row) for row in read_rows(self.folder / "refused.jsonl"))


def write_sorted(
    source: str, settings: Settings, folder: Path, listed: Callable[[int], None]
) -> list[Container]:
    """Write sorted.jsonl, a row for each image by name, and refused.jsonl; tells the containers."""
    numbers: dict[Container, int] = {}

    def rows() -> Iterator[list[Any]]:
        found = listing(source, settings.max_resolution, settings.labels == "stored")
        for count, (container, entry) in enumerate(found, start=1):
            number = numbers.setdefault(container, len(numbers))
            if isinstance(entry, Refused):
                yield [entry.name, number, [], {"kind": entry.kind, "reason": entry.reason}]
            else:
                yield [entry.name, number, list(entry.place), entry.label]
            if count % 1000 == 0:
                listed(count)

    def kept(refused) -> Iterator[list[Any]]:
        before = None
        for name, number, place, label in external_sort(rows(), folder / "runs"):
            if isinstance(label, dict):
                refused.write(json.dumps([name, label["kind"], label["reason"]]) + "\n")
            elif name == before:
                reason = "another image of this name comes before it"
                refused.write(json.dumps([name, "duplicate", reason]) + "\n")
            else:
                yield [name, number, place, label]
                before = name

    with (folder / "refused.jsonl").open("w", encoding="ascii") as refused:
        write_rows(folder / "sorted.jsonl", kept(refused))
    return list(numbers)


def write_splits(
    source: str, settings: Settings, folder: Path, containers: list[Container]
) -> dict[str, Any]:
    """Write the samples of both splits from sorted.jsonl; returns what plan.json is to hold."""
    sorted_rows = folder / "sorted.jsonl"
    with (folder / "refused.jsonl").open("rb") as file:
        refused = sum(1 for _ in file)
    if refused == 0 and sorted_rows.stat().st_size == 0:
        raise DatasetError(f"{source} holds no images (files ending in .jpg, .png, .webp ...)")
    names = (row[0] for row in read_rows(sorted_rows))
    rule = split.choose(names, settings.split, settings.test_fraction)
    classes, label_of = labels(settings.labels, sorted_rows, containers)

    counts, offsets = dict.fromkeys(SPLITS, 0), {part: array("q") for part in SPLITS}
    files = {part: (folder / f"{part}.jsonl").open("w", encoding="ascii") for part in SPLITS}
    for name, container, place, label in read_rows(sorted_rows):
        part = "test" if rule.is_test(name) else "train"
        if counts[part] % settings.shard_samples == 0:
            offsets[part].append(files[part].tell())
        row = [name, container, place, label_of(name, label)]
        files[part].write(json.dumps(row) + "\n")
        counts[part] += 1
    for part in SPLITS:
        files[part].close()
        (folder / f"{part}.offsets").write_bytes(offsets[part].tobytes())

    total = sum(counts.values())
    for part, count in counts.items():
        if count == 0:
            raise DatasetError(split.empty(part, rule.name, total, settings.test_fraction))
    return {
        "source": os.path.abspath(source),
        "settings": settings.to_json(),
        "versions": versions(),
        "containers": containers,
        "split": {"rule": rule.name, "why": rule.why},
        "classes": classes,
        "samples": counts,
        "refused": refused,
    }


def labels(
    asked: str, sorted_rows: Path, containers: list[Container]
) -> tuple[list[str], Callable[[str, Any], int]]:
    """The names of the classes, and the label of an image by its name and what is stored with it.

    Stored labels keep their numbers where Hugging Face's schema names them all; else the values
    found, in order, are the classes.
    """
    if asked == "none":
        return [], lambda name, stored: -1
    if asked == "folder":
        found = sorted({folder_of(row[0]) for row in read_rows(sorted_rows)})
        if len(found) < 2:
            raise DatasetError("--labels folder: all images lie in one folder; use --labels none")
        number = {folder: i for i, folder in enumerate(found)}
        return found, lambda name, stored: number[folder_of(name)]
    values = {row[3] for row in read_rows(sorted_rows)} - {None}
    if not values:
        raise DatasetError(
            "--labels stored: no labels are stored with these images (a .cls beside an image in a "
            "tar, a column `label` in parquet, `label` in a TFRecord); use --labels none"
        )
    declared = declared_classes(containers)
    if declared and all(isinstance(v, int) and 0 <= v < len(declared) for v in values):
        return declared, lambda name, stored: -1 if stored is None else stored
    ordered = sorted(values, key=lambda v: (isinstance(v, str), v))
    number = {value: i for i, value in enumerate(ordered)}
    return [str(v) for v in ordered], lambda name, stored: number.get(stored, -1)


def declared_classes(containers: list[Container]) -> list[str]:
    """The class names in the schema of the parquet files, where all say the same."""
    paths = [Path(c.path) for c in containers if c.kind == "parquet"]
    found = {tuple(parquet.class_names(path)) for path in paths}
    return list(found.pop()) if len(found) == 1 and len(paths) == len(containers) else []


def folder_of(name: str) -> str:
    return name.rpartition("/")[0]
