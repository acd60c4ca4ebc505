"""What is to be made of a source: which image is which sample, of which split, with which label.

The plan lies on the disk, since a source may have more names than memory holds:

    plan.json                   settings, versions, containers, split, classes, numbers; what was
                                passed over, and what else there is to tell of the source
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
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from dataprep import split
from dataprep.classes import labels
from dataprep.images.names import ENDINGS
from dataprep.manifest import SPLITS, DatasetError
from dataprep.runtime.files import fsync
from dataprep.runtime.sort import external_sort, read_rows, write_rows
from dataprep.settings import Settings, versions
from dataprep.sources.entry import Asked, Entry, Passed, Refused, Said
from dataprep.sources.source import Container, listing

RULES_SHOWN = FOLDERS_SHOWN = 12
RULES_KEPT = 100


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
            found = write_sorted(source, settings, making, listed)
            content = write_splits(source, settings, making, found)
            (making / "plan.json").write_text(json.dumps(content, indent=1), "ascii")
            (making / "sorted.jsonl").unlink()
            for path in (*making.iterdir(), making):
                fsync(path)
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
    def passed_over(self) -> dict[str, dict[str, Any]]:
        """{"files", "first"} of each rule by which files of the source were passed over."""
        return self.content.get("passed_over", {})

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


@dataclass
class Found:
    """What a listing tells besides the images."""

    containers: dict[Container, int] = field(default_factory=dict)  # their numbers
    passed_over: dict[str, dict[str, Any]] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)

    def pass_over(self, name: str, rule: str) -> None:
        if rule not in self.passed_over and len(self.passed_over) >= RULES_KEPT:
            rule = "by yet other rules"  # endings may be anything
        known = self.passed_over.setdefault(rule, {"files": 0, "first": name})
        known["files"] += 1
        known["first"] = min(known["first"], name)


def write_sorted(
    source: str, settings: Settings, folder: Path, listed: Callable[[int], None]
) -> Found:
    """Write sorted.jsonl, a row for each image by name, and refused.jsonl; tells the rest."""
    found = Found()
    asked = Asked(
        settings.max_resolution,
        settings.labels == "stored",
        settings.image_column,
        settings.label_column,
    )

    def rows() -> Iterator[list[Any]]:
        for count, (container, item) in enumerate(listing(source, asked), start=1):
            if count % 1000 == 0:
                listed(count)
            if isinstance(item, Said):
                found.said.add(item.text)
                continue
            if isinstance(item, Passed):
                found.pass_over(*item)
                continue
            number = found.containers.setdefault(container, len(found.containers))
            if isinstance(item, Refused):
                yield [item.name, number, [], {"kind": item.kind, "reason": item.reason}]
            else:
                yield [item.name, number, list(item.place), item.label]

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
    return found


def write_splits(source: str, settings: Settings, folder: Path, found: Found) -> dict[str, Any]:
    """Write the samples of both splits from sorted.jsonl; returns what plan.json is to hold."""
    sorted_rows = folder / "sorted.jsonl"
    with (folder / "refused.jsonl").open("rb") as file:
        refused = sum(1 for _ in file)
    if sorted_rows.stat().st_size == 0:
        raise no_image(source, refused, folder, found)
    kinds = {container.kind for container in found.containers}
    if (settings.image_column or settings.label_column) and not kinds & {"parquet", "tar"}:
        name = "--image-column" if settings.image_column else "--label-column"
        raise DatasetError(f"{name} is of tables and tars, and there are none")
    names = (row[0] for row in read_rows(sorted_rows))
    rule = split.choose(names, settings.split, settings.test_fraction)
    classes, label_of = labels(settings, sorted_rows, list(found.containers))

    endings, folders, unlabelled = Counter(), Counter(), 0
    counts, offsets = dict.fromkeys(SPLITS, 0), {part: array("q") for part in SPLITS}
    files = {part: (folder / f"{part}.jsonl").open("w", encoding="ascii") for part in SPLITS}
    for name, container, place, label in read_rows(sorted_rows):
        part = "test" if rule.is_test(name) else "train"
        if counts[part] % settings.shard_samples == 0:
            offsets[part].append(files[part].tell())
        number = label_of(name, label)
        files[part].write(json.dumps([name, container, place, number]) + "\n")
        counts[part] += 1
        endings[os.path.splitext(name)[1].lower()] += 1
        if len(folders) <= FOLDERS_SHOWN:
            folders[name.partition("/")[0] if "/" in name else ""] += 1
        if number < 0 and settings.labels != "none":
            unlabelled += 1
    for part in SPLITS:
        files[part].close()
        (folder / f"{part}.offsets").write_bytes(offsets[part].tobytes())

    total = sum(counts.values())
    for part, count in counts.items():
        if count == 0:
            raise DatasetError(split.empty(part, rule.name, total, settings.test_fraction))
    notes = sorted(found.said)
    if rule.note:
        notes.append(rule.note)
    if unlabelled:
        notes.append(f"{unlabelled:,} images have no label")
    return {
        "source": os.path.abspath(source),
        "settings": settings.to_json(),
        "versions": versions(),
        "containers": list(found.containers),
        "split": {"rule": rule.name, "why": rule.why},
        "classes": classes,
        "samples": counts,
        "refused": refused,
        "endings": dict(endings.most_common()),
        "folders": dict(folders.most_common()) if len(folders) <= FOLDERS_SHOWN else {},
        "passed_over": dict(sorted(found.passed_over.items())),
        "notes": notes,
    }


def no_image(source: str, refused: int, folder: Path, found: Found) -> DatasetError:
    """What to tell where no image is left."""
    if refused:
        name, _, reason = next(read_rows(folder / "refused.jsonl"))
        return DatasetError(
            f"none of the {refused:,} images of {source} can be used; the first: {shown(name)}: "
            f"{reason}"
        )
    passed = passed_over(found.passed_over)
    return DatasetError(
        f"{source} holds no images (files ending in {', '.join(ENDINGS)})"
        + (f"; passed over: {passed}" if passed else "")
    )


def passed_over(rules: dict[str, dict[str, Any]]) -> str:
    """In words: how many files by which rule, and the first of each; the most common first."""
    ordered = sorted(rules.items(), key=lambda item: (-item[1]["files"], item[0]))
    texts = [f"{found['files']:,} {rule} ({shown(found['first'])})" for rule, found in ordered]
    more = f", and by {len(texts) - RULES_SHOWN} more rules" if len(texts) > RULES_SHOWN else ""
    return ", ".join(texts[:RULES_SHOWN]) + more


def shown(name: str) -> str:
    """A name as a terminal can show it."""
    return name if name.isprintable() else ascii(name)
