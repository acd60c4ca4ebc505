"""From finished units to a dataset: duplicates, betons, index, rejects and, last, the manifest."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dataprep import manifest, rejects
from dataprep.formats import beton
from dataprep.manifest import SPLITS, DatasetError
from dataprep.plan import Plan, Unit
from dataprep.rejects import Reject
from dataprep.runtime import pool
from dataprep.runtime.files import HashingFile, facts_of, fsync, write_file
from dataprep.runtime.sort import external_sort
from dataprep.settings import versions
from dataprep.units import entry, intact, read_json, record_path, records

PUBLISHED = ("index", "webdataset", "ffcv", rejects.NAME)


def duplicates(folder: Path, plan: Plan) -> Iterator[tuple[Unit, int, Reject]]:
    """Images with the same source bytes as another: all but the first by name."""

    def sources() -> Iterator[list]:
        for unit, record in records(folder, plan.units):
            names = {sample.slot: sample.entry.name for sample in plan.samples(unit)}
            for slot, sha256 in record["sources"]:
                yield [sha256, names[slot], unit.split, slot]

    first = [None, None]
    for sha256, name, split, slot in external_sort(sources(), folder / "sorting"):
        if sha256 != first[0]:
            first = [sha256, name]
            continue
        unit = Unit(split, slot // plan.settings.shard_samples)
        yield unit, slot, Reject(name, "duplicate", f"the same bytes as {first[1]}")


def rejected(folder: Path, plan: Plan) -> Iterator[list]:
    """Every rejected image as [name, kind, reason], sorted by name."""

    def rows() -> Iterator[list]:
        yield from map(list, plan.rejects())
        for _, record in records(folder, plan.units):
            yield from (row[1:] for row in record["rejects"])
        yield from (list(reject) for _, _, reject in duplicates(folder, plan))

    yield from external_sort(rows(), folder / "sorting-rejects")


class Beton(NamedTuple):
    """The beton of one split and resolution, as a task for a worker."""

    split: str
    side: int

    @property
    def path(self) -> str:
        return f"ffcv/r{self.side:03d}-{self.split}.beton"

    def __str__(self) -> str:
        return self.path


def assemble(plan: Plan, folder: Path, task: Beton) -> dict[str, Any]:
    """Write a beton and return its manifest entry.

    An existing one is kept if it was made of the same parts and its sha256 matches.
    """
    units = [unit for unit in plan.units if unit.split == task.split]
    made_of = [
        part
        for _, record in records(folder, units)
        for part in record["parts"]
        if part["resolution"] == task.side
    ]
    record = folder / "records" / f"beton-r{task.side:03d}-{task.split}.json"
    digest = manifest.canonical_sha256(made_of)
    known = read_json(record)
    if known and known["made_of"] == digest and intact(folder, known["file"]):
        return known["file"]
    parts = [beton.Part(folder / part["path"], part["samples"]) for part in made_of]
    facts = beton.assemble(folder / task.path, parts, task.side, plan.settings.beton_images)
    samples = sum(part.samples for part in parts)
    file = entry(task.path, "ffcv", task.side, task.split, samples=samples, **facts._asdict())
    write_file(record, json.dumps({"made_of": digest, "file": file}).encode("ascii"))
    return file


def finish(folder: Path, out: Path, plan: Plan, workers: int) -> Counter:
    """Make the dataset `out` from the units in `folder`; return the kinds of the rejects."""
    kinds = rejects.write(folder / rejects.NAME, (Reject(*row) for row in rejected(folder, plan)))
    index = write_index(folder, plan)
    counts = {file["split"]: file["samples"] for file in index}
    for split, count in counts.items():
        if count == 0:
            raise DatasetError(f"no image is left to {split}: all of its images are rejected")

    betons: list[dict[str, Any]] = []
    if "ffcv" in plan.settings.formats:
        # Largest first, so that no worker ends long after the others.
        tasks = [Beton(split, side) for side in plan.settings.sides[::-1] for split in SPLITS]
        betons = [file for _, file in pool.run(partial(assemble, plan, folder), tasks, workers)]
        betons.sort(key=lambda file: (SPLITS.index(file["split"]), file["resolution"]))
    tars = [
        file
        for _, record in records(folder, plan.units)
        for file in record["files"]
        if file["samples"]
    ]
    listed = entry(
        rejects.NAME, "rejects", None, None, samples=kinds.total(),
        **facts_of(folder / rejects.NAME)._asdict(),
    )  # fmt: skip
    made = manifest_content(plan, counts, kinds.total(), tars + betons + index + [listed])
    made["source"]["not_square"] = not_square(folder, plan)
    manifest.write(folder, made)
    publish(folder, out)
    return kinds


def not_square(folder: Path, plan: Plan) -> dict[str, Any] | None:
    """How many images were cropped or padded, and the first of them."""
    images, first = 0, None
    for unit, record in records(folder, plan.units):
        found = record.get("not_square", ())
        images += len(found)
        if found and first is None:
            first = next(s.entry.name for s in plan.samples(unit) if s.slot == found[0])
    return {"images": images, "first": first} if images else None


def write_index(folder: Path, plan: Plan) -> list[dict[str, Any]]:
    """One JSON line per sample, in order: key in the tars, name in the source, label."""
    files = []
    for split in SPLITS:
        path, samples = f"index/{split}.jsonl", 0
        file = HashingFile(folder / path)
        for unit, record in records(folder, [unit for unit in plan.units if unit.split == split]):
            out = {*record["dropped"], *(slot for slot, *_ in record["rejects"])}
            for sample in plan.samples(unit):
                if sample.slot not in out:
                    line = {"key": sample.key, "name": sample.entry.name, "label": sample.label}
                    file.write(json.dumps(line).encode("ascii") + b"\n")
                    samples += 1
        facts = file.close()
        files.append(entry(path, "index", None, split, samples=samples, **facts._asdict()))
    return files


def manifest_content(
    plan: Plan, counts: dict[str, int], rejected: int, files: list[dict[str, Any]]
) -> dict[str, Any]:
    settings, rule = plan.settings, plan.content["split"]
    fraction = (
        {"test_fraction": settings.test_fraction}
        if rule["rule"] in ("fraction", "classes", "tail")
        else {}
    )
    name = Path(plan.content["source"]).resolve().name
    return {
        "made_with": versions(),
        "source": {
            "name": name,
            "files": plan.images + sum(found["files"] for found in plan.skipped.values()),
            "images": plan.images,
            "rejects": rejected,
            "skipped": plan.skipped,
        },
        "settings": settings.to_json(),
        "split": {**rule, "asked": settings.split, **fraction},
        "resolutions": settings.sides,
        "samples": counts,
        "classes": plan.content["classes"],
        "files": files,
    }


def publish(folder: Path, out: Path) -> None:
    """Move the finished dataset from `folder` to `out`; can be called again if it was killed.

    The manifest is moved last, after everything that it lists was synced to the disk. A dataset
    exists if its manifest does.
    """
    listed = manifest.Manifest.load(folder).content["files"]
    remove_unlisted({file["path"] for file in listed}, folder)
    for file in listed:
        here = folder / file["path"]
        fsync(here if here.exists() else out / file["path"])
    for name in PUBLISHED:
        if (folder / name).exists():
            (folder / name).rename(out / name)
    for inside in {(out / file["path"]).parent for file in listed}:
        fsync(inside)
    for name in PUBLISHED:
        if (out / name).is_dir():
            fsync(out / name)
    fsync(out)
    (folder / manifest.NAME).rename(out / manifest.NAME)
    fsync(out)
    shutil.rmtree(folder, ignore_errors=True)  # NFS keeps the open lock file until the next run


def remove_unlisted(paths: set[str], folder: Path) -> None:
    """Remove files of killed runs, so that they are not published."""
    for name in PUBLISHED:
        for path in (folder / name).rglob("*"):
            if path.is_file() and path.relative_to(folder).as_posix() not in paths:
                path.unlink()


def fsync_units(folder: Path, units: list[Unit]) -> None:
    """Sync the files of a task of an array to the disk."""
    for unit, record in records(folder, units):
        for file in record["files"] + record["parts"]:
            fsync(folder / file["path"])
        fsync(record_path(folder, unit))
