"""The steps from SOURCE to a dataset: plan, make the units of work, finish.

Everything is made in DIR/.partial. Resumable: finished units in DIR/.partial are verified by sha256
and kept; the rest is made.
"""

import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dataprep import manifest
from dataprep.finish import duplicates, finish, fsync_units, publish
from dataprep.manifest import DatasetError, Manifest
from dataprep.plan import SHOWN_RULES, Plan, Unit, describe_skipped, shown
from dataprep.rejects import Reject, RejectCounter, RejectPolicy, summary
from dataprep.runtime import files, pool
from dataprep.runtime.lock import locked
from dataprep.runtime.progress import Progress, duration
from dataprep.settings import CROPS, Settings, refuse_changes, versions
from dataprep.sources.entry import READ
from dataprep.units import Images, Task, check_unit, make_unit, read_json, record_path

PARTIAL = ".partial"
CROPPED = {  # what was done with images that are not square
    "centre": "cropped to the central square",
    "top": "cropped to the upper square, or the central one if wide",
    "pad": "padded with white",
}
WAY_OUT = "use the same settings, choose another --out, or remove"


class Share(NamedTuple):
    """Task number `task` of `tasks`, each of which makes a range of the units."""

    task: int
    tasks: int

    def of(self, units: list[Unit]) -> list[Unit]:
        first, last = (len(units) * i // self.tasks for i in (self.task, self.task + 1))
        return units[first:last]


def prepare(
    source: str,
    out: Path,
    settings: Settings,
    workers: int,
    policy: RejectPolicy,
    share: Share | None = None,
    merge: bool = False,
) -> Manifest | None:
    """Prepare the dataset `out` from `source`, or resume; with `share`, do a part of the work.

    `merge` only finishes what the tasks have made. Returns None if a share is done and there is no
    dataset yet. DatasetError if the source, the output or the settings do not allow it.
    """
    folder = out / PARTIAL
    check_output_folder(out)
    with locked(folder / "lock", shared=share is not None):
        if share is None:
            remove_partial_files(folder)
            if (folder / manifest.NAME).exists():  # killed while it was published
                publish(folder, out)
        made = finished_dataset(source, out, settings)
        if made:
            return made
        if (folder / manifest.NAME).exists():
            return None  # nothing is left to a share but publishing
        plan = load_or_make_plan(source, folder, settings)
        refuse_changes(
            f"{out} holds an unfinished dataset with other settings",
            identity(plan.content["source"], plan.settings, plan.content["versions"]),
            identity(os.path.abspath(source), settings, versions()),
            f"{WAY_OUT} {folder}",
        )
        counter = RejectCounter(policy, plan.images, folder / "rejects.jsonl")
        counter.add(plan.rejects())
        units = share.of(plan.units) if share else plan.units
        todo = unfinished_units(folder, plan, units, workers, counter)
        if merge and todo:
            raise DatasetError(
                f"{len(todo):,} of {len(units):,} units of work are missing, {todo[0]} the first: "
                "run their tasks again, or leave out --merge to make them here"
            )
        make_units(folder, plan, [Task(unit) for unit in todo], workers, counter)
        if share:
            fsync_units(folder, units)
            return None
        drop_duplicates(folder, plan, workers, counter)
        kinds = finish(folder, out, plan, workers)
    if kinds:
        print(f"rejected, and listed in {out / 'rejects.jsonl'}: {summary(kinds)}")
    made = Manifest.load(out)
    if uneven := made.content["source"]["not_square"]:
        print(
            f"{uneven['images']:,} images are not square ({shown(uneven['first'])} the first): "
            f"{CROPPED[settings.crop]}; --crop {'|'.join(CROPS)} chooses"
        )
    return made


def check_output_folder(out: Path) -> None:
    """DatasetError if `out` is, or contains, something that is not a dataset."""
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is not a folder: choose another --out")
    ours = (out / PARTIAL).is_dir() or (out / manifest.NAME).exists()
    if out.is_dir() and not ours and any(out.iterdir()):
        raise DatasetError(f"{out} is not empty: choose another --out")


def remove_partial_files(folder: Path) -> None:
    """Remove the files that killed runs were writing."""
    for path in folder.rglob(f"*{files.PARTIAL}"):
        if path.is_file():
            path.unlink()


def finished_dataset(source: str, out: Path, settings: Settings) -> Manifest | None:
    """The dataset in `out` if it is finished; DatasetError if its settings are others."""
    if not (out / manifest.NAME).exists():
        return None
    shutil.rmtree(out / PARTIAL, ignore_errors=True)
    made = Manifest.load(out)
    before = Settings.from_json(made.content["settings"])
    refuse_changes(
        f"{out} holds a dataset with other settings",
        identity(made.content["source"]["name"], before),
        identity(Path(source).resolve().name, settings),
        f"{WAY_OUT} it",
    )
    made.check()
    found = made.content["source"]
    print(
        f"{out} is complete: nothing to do. It was made from {found['images']:,} images in "
        f"{found['name']}; {source} was not listed again"
    )
    return made


def identity(source: str, settings: Settings, made_with: dict[str, str] | None = None) -> dict:
    return {"SOURCE": source, **settings.to_json(), **(made_with or {})}


def load_or_make_plan(source: str, folder: Path, settings: Settings) -> Plan:
    """The plan in `folder`; if it is missing, one task of an array makes it and the others wait."""
    if not (folder / "plan").exists():
        with locked(folder / "plan.lock", wait=True):
            if not (folder / "plan").exists():
                Plan.make(source, settings, folder / "plan", ListingProgress())
    plan = Plan(folder / "plan")
    print_plan(plan)
    return plan


def print_plan(plan: Plan) -> None:
    rule, counts = plan.content["split"], plan.counts
    print(
        f"{plan.images:,} images: {counts['train']:,} train, {counts['test']:,} test "
        f"({rule['rule']}: {rule['why']})"
    )
    for what, without in (("extensions", "without an extension"), ("folders", "in none")):
        counts = plan.content.get(what, {})
        if len(counts) > 1 and max(counts.values()) > 1:
            texts = [f"{count:,} {shown(name) or without}" for name, count in counts.items()]
            print(f"images by {what}: {', '.join(texts[:SHOWN_RULES])}")
    read = {rule: found for rule, found in plan.skipped.items() if rule.startswith(READ)}
    if read:
        print(f"also read: {describe_skipped(read)}")
    if other := {rule: found for rule, found in plan.skipped.items() if rule not in read}:
        print(f"skipped: {describe_skipped(other)}")
    notes = plan.content.get("notes", [])
    for note in notes[:SHOWN_RULES]:
        print(f"note: {note}")
    if len(notes) > SHOWN_RULES:
        print(f"note: {len(notes) - SHOWN_RULES:,} more, in {plan.folder / 'plan.json'}")
    sys.stdout.flush()


class ListingProgress:
    """Prints the number of names listed so far, every 10 seconds."""

    def __init__(self) -> None:
        self.begun = self.shown = time.monotonic()

    def __call__(self, names: int) -> None:
        now = time.monotonic()
        if now - self.shown > 10:
            self.shown = now
            print(f"listing: {names:,} images in {duration(now - self.begun)}", file=sys.stderr)


def unfinished_units(
    folder: Path, plan: Plan, units: list[Unit], workers: int, counter: RejectCounter
) -> list[Unit]:
    """Verify the files of finished units, count their rejects, and return the other units."""
    begun = [unit for unit in units if record_path(folder, unit).exists()]
    finished, size = set(), plan.settings.shard_samples
    progress = Progress("verifying finished units", size * len(begun))
    for unit, rejects in pool.run(partial(check_unit, Images(plan), folder), begun, workers):
        progress.add(size)
        if rejects is not None:
            finished.add(unit)
            counter.add(Reject(*row[1:]) for row in rejects)
    progress.close()
    return [unit for unit in units if unit not in finished]


def make_units(
    folder: Path, plan: Plan, tasks: list[Task], workers: int, counter: RejectCounter | None
) -> None:
    """Make units in `workers` processes, and count their rejects."""
    if not tasks:
        return
    size, counts = plan.settings.shard_samples, plan.counts
    images = {t: min(size, counts[t.unit.split] - t.unit.number * size) for t in tasks}
    total, begun = sum(images.values()), time.monotonic()
    progress = Progress("preparing", total)
    call = partial(make_unit, Images(plan), folder)
    try:
        for task, (rejects, read) in pool.run(call, tasks, workers, warn_of_death):
            progress.add(images[task], read)
            if counter:
                counter.add(Reject(*row[1:]) for row in rejects)
    finally:
        progress.close()
    taken = time.monotonic() - begun
    print(f"{total:,} images in {duration(taken)}: {total / taken:.0f} images/s")


def warn_of_death(running: list[Task]) -> None:
    print(f"a worker died at {' or '.join(map(str, running))}: retrying", file=sys.stderr)


def drop_duplicates(folder: Path, plan: Plan, workers: int, counter: RejectCounter) -> None:
    """Make the units again that hold an image whose bytes another image has, too."""
    dropped: dict[Unit, list[int]] = {}
    for unit, slot, reject in duplicates(folder, plan):
        dropped.setdefault(unit, []).append(slot)
        counter.add([reject])
    again = []
    for unit in plan.units:
        slots = sorted(dropped.get(unit, []))
        if slots != read_json(record_path(folder, unit))["dropped"]:
            again.append(Task(unit, tuple(slots)))
    if again:
        print(f"{sum(map(len, dropped.values())):,} duplicates: {len(again):,} units made again")
        make_units(folder, plan, again, workers, counter=None)
