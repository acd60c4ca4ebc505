"""The plan of a dataset: the split, the position and the label of each image of a source.

It is on the disk, as a source may have more names than fit into memory:

    plan.json                   settings, versions, containers, split, classes, counts; skipped
                                files; notes about the source
    {train,test}.jsonl          [name, container, place, label] of each sample, in order
    {train,test}.offsets        where each unit of work begins in that file, int64
    rejects.jsonl               images rejected by their names, with the reason

A unit of work is `shard_samples` consecutive samples of a split: one tar at each resolution. A
worker makes one at a time, and a unit that was not finished is made again.
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

from dataprep.classes import labels
from dataprep.images.names import EXTENSIONS
from dataprep.manifest import SPLITS, DatasetError
from dataprep.runtime.files import fsync
from dataprep.runtime.sort import external_sort, read_rows, write_rows
from dataprep.settings import Settings, versions
from dataprep.sources.entry import Entry, Note, Options, Reject, Skipped
from dataprep.sources.source import Container, listing
from dataprep.split import choose, empty_split

SHOWN_RULES = SHOWN_FOLDERS = 12
RULES_KEPT = 100


class Sample(NamedTuple):
    """An image of the source; `slot` is its position in its split; label -1 means none."""

    entry: Entry
    container: int
    slot: int
    label: int

    @property
    def key(self) -> str:
        """Its name in the tars: a number, as not every file name is legal there."""
        return f"{self.slot:09d}"


class Unit(NamedTuple):
    """A unit of work: its split, and its number in the split."""

    split: str
    number: int

    def __str__(self) -> str:
        return f"{self.split}-{self.number:06d}"


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
        on_listed: Callable[[int], None] = lambda count: None,
    ) -> "Plan":
        """List `source` and write its plan to `folder`, which appears whole or not at all.

        `on_listed` is called with the number of names so far. DatasetError if the source cannot be
        listed, contains no images, or does not fit the settings.
        """
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            found = write_listing(source, settings, partial, on_listed)
            content = write_splits(source, settings, partial, found)
            (partial / "plan.json").write_text(json.dumps(content, indent=1), "ascii")
            (partial / "sorted.jsonl").unlink()
            for path in (*partial.iterdir(), partial):
                fsync(path)
            if not folder.exists():  # another task of the array may have been faster
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return cls(folder)

    @property
    def counts(self) -> dict[str, int]:
        """Samples planned in each split."""
        return self.content["samples"]

    @property
    def images(self) -> int:
        """Images found in the source, rejected ones included."""
        return sum(self.counts.values()) + self.content["rejected"]

    @property
    def skipped(self) -> dict[str, dict[str, Any]]:
        """{"files", "first"} of each rule that skipped files of the source."""
        return self.content.get("skipped", {})

    @property
    def units(self) -> list[Unit]:
        size = self.settings.shard_samples
        return [Unit(split, n) for split in SPLITS for n in range(-(-self.counts[split] // size))]

    @cached_property
    def offsets(self) -> dict[str, "array[int]"]:
        """Where each unit begins in the file of its split."""
        return {s: array("q", (self.folder / f"{s}.offsets").read_bytes()) for s in SPLITS}

    def samples(self, unit: Unit) -> Iterator[Sample]:
        """The samples of a unit, in order."""
        first = unit.number * self.settings.shard_samples
        last = min(first + self.settings.shard_samples, self.counts[unit.split])
        with (self.folder / f"{unit.split}.jsonl").open("rb") as file:
            file.seek(self.offsets[unit.split][unit.number])
            for slot in range(first, last):
                name, container, place, label = json.loads(file.readline())
                yield Sample(Entry(name, place), container, slot, label)

    def rejects(self) -> Iterator[Reject]:
        """The images rejected by their names, sorted."""
        return (Reject(*row) for row in read_rows(self.folder / "rejects.jsonl"))


@dataclass
class Found:
    """What a listing finds besides the images."""

    containers: dict[Container, int] = field(default_factory=dict)  # their numbers
    skipped: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)

    def skip(self, name: str, rule: str) -> None:
        if rule not in self.skipped and len(self.skipped) >= RULES_KEPT:
            rule = "by other rules"  # extensions may be anything
        known = self.skipped.setdefault(rule, {"files": 0, "first": name})
        known["files"] += 1
        known["first"] = min(known["first"], name)


def write_listing(
    source: str, settings: Settings, folder: Path, on_listed: Callable[[int], None]
) -> Found:
    """Write sorted.jsonl, a row for each image, and rejects.jsonl; return what else was found."""
    found = Found()
    options = Options(
        settings.max_resolution,
        settings.labels == "stored",
        settings.image_column,
        settings.label_column,
    )

    def rows() -> Iterator[list[Any]]:
        for count, (container, item) in enumerate(listing(source, options), start=1):
            if count % 1000 == 0:
                on_listed(count)
            if isinstance(item, Note):
                found.notes.add(item.text)
                continue
            if isinstance(item, Skipped):
                found.skip(*item)
                continue
            number = found.containers.setdefault(container, len(found.containers))
            if isinstance(item, Reject):
                yield [item.name, number, [], {"kind": item.kind, "reason": item.reason}]
            else:
                yield [item.name, number, list(item.place), item.label]

    def kept(rejects) -> Iterator[list[Any]]:
        before = None
        for name, number, place, label in external_sort(rows(), folder / "runs"):
            if isinstance(label, dict):
                rejects.write(json.dumps([name, label["kind"], label["reason"]]) + "\n")
            elif name == before:
                reason = "another image of this name comes before it"
                rejects.write(json.dumps([name, "duplicate", reason]) + "\n")
            else:
                yield [name, number, place, label]
                before = name

    with (folder / "rejects.jsonl").open("w", encoding="ascii") as rejects:
        write_rows(folder / "sorted.jsonl", kept(rejects))
    return found


def write_splits(source: str, settings: Settings, folder: Path, found: Found) -> dict[str, Any]:
    """Write the samples of both splits from sorted.jsonl; return the content of plan.json."""
    sorted_rows = folder / "sorted.jsonl"
    with (folder / "rejects.jsonl").open("rb") as file:
        rejected = sum(1 for _ in file)
    if sorted_rows.stat().st_size == 0:
        raise no_image(source, rejected, folder, found)
    kinds = {container.kind for container in found.containers}
    if (settings.image_column or settings.label_column) and not kinds & {"parquet", "tar"}:
        name = "--image-column" if settings.image_column else "--label-column"
        raise DatasetError(f"{name} applies to tables and tars, and the source has none")
    names = (row[0] for row in read_rows(sorted_rows))
    rule = choose(names, settings.split, settings.test_fraction)
    classes, label_of = labels(settings, sorted_rows, list(found.containers))

    extensions, folders, unlabelled = Counter(), Counter(), 0
    counts, offsets = dict.fromkeys(SPLITS, 0), {s: array("q") for s in SPLITS}
    files = {s: (folder / f"{s}.jsonl").open("w", encoding="ascii") for s in SPLITS}
    for name, container, place, label in read_rows(sorted_rows):
        split = "test" if rule.is_test(name) else "train"
        if counts[split] % settings.shard_samples == 0:
            offsets[split].append(files[split].tell())
        number = label_of(name, label)
        files[split].write(json.dumps([name, container, place, number]) + "\n")
        counts[split] += 1
        extensions[os.path.splitext(name)[1].lower()] += 1
        if len(folders) <= SHOWN_FOLDERS:
            folders[name.partition("/")[0] if "/" in name else ""] += 1
        if number < 0 and settings.labels != "none":
            unlabelled += 1
    for split in SPLITS:
        files[split].close()
        (folder / f"{split}.offsets").write_bytes(offsets[split].tobytes())

    total = sum(counts.values())
    for split, count in counts.items():
        if count == 0:
            raise DatasetError(empty_split(split, rule.name, total, settings.test_fraction))
    notes = sorted(found.notes)
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
        "rejected": rejected,
        "extensions": dict(extensions.most_common()),
        "folders": dict(folders.most_common()) if len(folders) <= SHOWN_FOLDERS else {},
        "skipped": dict(sorted(found.skipped.items())),
        "notes": notes,
    }


def no_image(source: str, rejected: int, folder: Path, found: Found) -> DatasetError:
    """The error if no image is left."""
    if rejected:
        name, _, reason = next(read_rows(folder / "rejects.jsonl"))
        return DatasetError(
            f"none of the {rejected:,} images of {source} can be used; the first: {shown(name)}: "
            f"{reason}"
        )
    skipped = describe_skipped(found.skipped)
    return DatasetError(
        f"{source} holds no images (files ending in {', '.join(EXTENSIONS)})"
        + (f"; skipped: {skipped}" if skipped else "")
    )


def describe_skipped(rules: dict[str, dict[str, Any]]) -> str:
    """For each rule, the most common first: how many files it skipped, and the first of them."""
    ordered = sorted(rules.items(), key=lambda item: (-item[1]["files"], item[0]))
    texts = [f"{found['files']:,} {rule} ({shown(found['first'])})" for rule, found in ordered]
    more = f", and by {len(texts) - SHOWN_RULES} more rules" if len(texts) > SHOWN_RULES else ""
    return ", ".join(texts[:SHOWN_RULES]) + more


def shown(name: str) -> str:
    """A name that can be printed."""
    return name if name.isprintable() else ascii(name)
