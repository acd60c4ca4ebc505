"""The way from SOURCE to a dataset: plan, make what is missing, finish.

All is made in DIR/.partial. Whatever is killed, and whenever: the same command again finds there
what was done, checks it by its sha256, and does the rest.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dataprep import manifest
from dataprep.finish import duplicates, finish, publish, store_units
from dataprep.manifest import DatasetError, Manifest
from dataprep.plan import RULES_SHOWN, Plan, Unit, passed_over, shown
from dataprep.rejects import Reject, Tally, Tolerance, summary
from dataprep.runtime import files, pool
from dataprep.runtime.lock import locked
from dataprep.runtime.progress import Progress, duration
from dataprep.settings import CROPS, Settings, refuse_changes, versions
from dataprep.sources.entry import READ
from dataprep.work import Images, Task, check_unit, make_unit, read_json, record_path

PARTIAL = ".partial"
CROPPED = {  # what was done with images that are not square
    "centre": "the square in their middle was taken",
    "top": "the square at their upper end was taken, of wide ones that in the middle",
    "pad": "white was put beside them",
}
KEEP = "go on with the same settings, choose another --out, or remove"


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
    tolerance: Tolerance,
    share: Share | None = None,
    merge: bool = False,
) -> Manifest | None:
    """Prepare the dataset `out` from `source`, or go on with it; with `share`, a part of the work.

    `merge` does no more than to put together what the tasks have made. None where a share is done
    and there is no dataset yet. DatasetError for anything that stands in the way.
    """
    folder = out / PARTIAL
    look_at(out)
    with locked(folder / "lock", shared=share is not None):
        if share is None:
            for path in folder.rglob(f"*{files.PARTIAL}"):  # left by killed runs
                if path.is_file():
                    path.unlink()
            if (folder / manifest.NAME).exists():
                publish(folder, out)
        made = complete(source, out, settings)
        if made:
            return made
        if (folder / manifest.NAME).exists():
            return None  # to be published: nothing is left to a share of the work
        plan = planned(source, folder, settings)
        refuse_changes(
            f"{out} holds an unfinished dataset made otherwise",
            facts(plan.content["source"], plan.settings, plan.content["versions"]),
            facts(os.path.abspath(source), settings, versions()),
            f"{KEEP} {folder}",
        )
        tally = Tally(tolerance, plan.images, folder / "rejects.jsonl")
        tally.add(Reject(*row) for row in plan.refused())
        units = share.of(plan.units) if share else plan.units
        todo = missing(folder, plan, units, workers, tally)
        if merge and todo:
            raise DatasetError(
                f"{len(todo):,} of {len(units):,} units of work are missing, {todo[0]} the first: "
                "run their tasks again, or leave out --merge to make them here"
            )
        make(folder, plan, [Task(unit) for unit in todo], workers, tally)
        if share:
            store_units(folder, units)
            return None
        drop_duplicates(folder, plan, workers, tally)
        kinds = finish(folder, out, plan, workers)
    if kinds:
        print(f"left out, and listed in {out / 'rejects.jsonl'}: {summary(kinds)}")
    made = Manifest.load(out)
    if uneven := made.content["source"]["not_square"]:
        print(
            f"{uneven['images']:,} images are not square ({shown(uneven['first'])} the first): "
            f"{CROPPED[settings.crop]}; --crop {'|'.join(CROPS)} chooses"
        )
    return made


def look_at(out: Path) -> None:
    """DatasetError where `out` is, or holds, something that is not ours."""
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out} is not a folder: choose another --out")
    ours = (out / PARTIAL).is_dir() or (out / manifest.NAME).exists()
    if out.is_dir() and not ours and any(out.iterdir()):
        raise DatasetError(f"{out} is not empty: choose another --out")


def complete(source: str, out: Path, settings: Settings) -> Manifest | None:
    """The dataset in `out`, if it is all there; DatasetError if it was made otherwise."""
    if not (out / manifest.NAME).exists():
        return None
    shutil.rmtree(out / PARTIAL, ignore_errors=True)
    made = Manifest.load(out)
    refuse_changes(
        f"{out} holds a dataset made otherwise",
        {
            "SOURCE": made.content["source"]["name"],
            **Settings.from_json(made.content["settings"]).to_json(),
        },
        {"SOURCE": Path(source).resolve().name, **settings.to_json()},
        f"{KEEP} it",
    )
    made.check()
    found = made.content["source"]
    print(
        f"{out} is complete: nothing to do. It was made of the {found['images']:,} images that "
        f"{found['name']} held then; {source} was not looked at again"
    )
    return made


def facts(source: str, settings: Settings, made_with: dict[str, str]) -> dict:
    return {"SOURCE": source, **settings.to_json(), **made_with}


def planned(source: str, folder: Path, settings: Settings) -> Plan:
    """The plan in `folder`, made if it is not there; tasks of an array wait for one another."""
    if not (folder / "plan").exists():
        with locked(folder / "plan.lock", wait=True):
            if not (folder / "plan").exists():
                with listed() as count:
                    Plan.make(source, settings, folder / "plan", count)
    plan = Plan(folder / "plan")
    tell_plan(plan)
    return plan


def tell_plan(plan: Plan) -> None:
    rule, counts = plan.content["split"], plan.counts
    print(
        f"{plan.images:,} images: {counts['train']:,} train, {counts['test']:,} test "
        f"({rule['rule']}: {rule['why']})"
    )
    for what, without in (("endings", "without an ending"), ("folders", "in none")):
        counts = plan.content.get(what, {})
        if len(counts) > 1 and max(counts.values()) > 1:
            texts = [f"{count:,} {shown(name) or without}" for name, count in counts.items()]
            print(f"images by {what}: {', '.join(texts[:RULES_SHOWN])}")
    read = {rule: found for rule, found in plan.passed_over.items() if rule.startswith(READ)}
    if read:
        print(f"also read: {passed_over(read)}")
    if passed := {rule: f for rule, f in plan.passed_over.items() if rule not in read}:
        print(f"passed over: {passed_over(passed)}")
    notes = plan.content.get("notes", [])
    for note in notes[:RULES_SHOWN]:
        print(f"note: {note}")
    if len(notes) > RULES_SHOWN:
        print(f"note: {len(notes) - RULES_SHOWN:,} more, in {plan.folder / 'plan.json'}")
    sys.stdout.flush()


@contextlib.contextmanager
def listed() -> Iterator:
    """Tells how many names are listed, where that takes long enough to wonder."""
    begun = shown = time.monotonic()

    def count(names: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(f"listing: {names:,} images in {duration(shown - begun)}", file=sys.stderr)

    yield count


def missing(folder: Path, plan: Plan, units: list[Unit], workers: int, tally: Tally) -> list[Unit]:
    """The units that are not finished; the others' files are read again and count for `tally`."""
    begun = [unit for unit in units if record_path(folder, unit).exists()]
    finished, size = set(), plan.settings.shard_samples
    progress = Progress("checking what is done", size * len(begun))
    for unit, rejects in pool.run(partial(check_unit, Images(plan), folder), begun, workers):
        progress.add(size)
        if rejects is not None:
            finished.add(unit)
            tally.add(Reject(*row[1:]) for row in rejects)
    progress.close()
    return [unit for unit in units if unit not in finished]


def make(folder: Path, plan: Plan, tasks: list[Task], workers: int, tally: Tally | None) -> None:
    """Make units in `workers` processes; their rejects are added to `tally`."""
    if not tasks:
        return
    size, counts = plan.settings.shard_samples, plan.counts
    images = {t: min(size, counts[t.unit.part] - t.unit.number * size) for t in tasks}
    total, begun = sum(images.values()), time.monotonic()
    progress = Progress("preparing", total)
    call = partial(make_unit, Images(plan), folder)
    try:
        for task, (rejects, read) in pool.run(call, tasks, workers, warn_of_death):
            progress.add(images[task], read)
            if tally:
                tally.add(Reject(*row[1:]) for row in rejects)
    finally:
        progress.close()
    taken = time.monotonic() - begun
    print(f"{total:,} images in {duration(taken)}: {total / taken:.0f} images/s")


def warn_of_death(running: list[Task]) -> None:
    print(f"a worker died at {' or '.join(map(str, running))}: retrying", file=sys.stderr)


def drop_duplicates(folder: Path, plan: Plan, workers: int, tally: Tally) -> None:
    """Make the units again that hold an image whose bytes another image has as well."""
    dropped: dict[Unit, list[int]] = {}
    for unit, slot, reject in duplicates(folder, plan):
        dropped.setdefault(unit, []).append(slot)
        tally.add([reject])
    again = []
    for unit in plan.units:
        slots = sorted(dropped.get(unit, []))
        if slots != read_json(record_path(folder, unit))["dropped"]:
            again.append(Task(unit, tuple(slots)))
    if again:
        print(f"{sum(map(len, dropped.values())):,} duplicates: {len(again):,} units made again")
        make(folder, plan, again, workers, tally=None)
