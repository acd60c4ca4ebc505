"""--verify: checks a dataset against its manifest."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dataprep import manifest
from dataprep.finish import PUBLISHED
from dataprep.formats import read
from dataprep.manifest import SPLITS, DatasetError, Manifest
from dataprep.runtime import pool
from dataprep.runtime.files import facts_of
from dataprep.runtime.progress import Progress

RANGE = 250  # samples in a task
WITHIN = 1.0  # grey levels: half a level each for the rounding of parent and child
LOSSY = 8.0  # grey levels on average for JPEG; another image differs by 40 or more
SHOWN = 3  # problems of a range


def verify(folder: Path, workers: int) -> list[str]:
    """The problems of the dataset in `folder`, one line each.

    Checks the manifest, the size and sha256 of every file, that there are no other files, and the
    numbers of samples. If all are right, checks that both formats have the same images in the same
    order, and that each resolution is the mean of the one above, within rounding.
    """
    try:
        made = Manifest.load(folder)
    except DatasetError as error:
        return [str(error)]
    if "root" in made.content:
        return [f"{folder} lists files in {made.place}: run --index again, which reads all of them"]
    problems = [*unlisted_files(made), *wrong_counts(made)]
    files = [File(**file) for file in made.content["files"]]
    progress = Progress("reading files", sum(file.samples for file in files))
    for file, problem in pool.run(partial(check_file, folder), files, workers):
        progress.add(file.samples, file.bytes)
        problems += problem
    progress.close()
    if problems:
        return [*sorted(problems), "images were not compared, as files are damaged"]

    ranges = [Range(part, i) for part in SPLITS for i in range(0, made.count(part), RANGE)]
    progress = Progress("comparing images", sum(map(made.count, SPLITS)))
    for task, found in pool.run(partial(check_images, made), ranges, workers):
        progress.add(min(RANGE, made.count(task.split) - task.first))
        problems += found
    progress.close()
    return problems


def unlisted_files(made: Manifest) -> Iterator[str]:
    """Files that the manifest does not list."""
    listed = {file["path"] for file in made.content["files"]}
    for name in PUBLISHED:
        for folder, _, files in os.walk(Path(made.folder, name)):
            for file in files:
                path = (Path(folder) / file).relative_to(made.folder).as_posix()
                if path not in listed:
                    yield f"{path} is not in the manifest"


def wrong_counts(made: Manifest) -> Iterator[str]:
    """Contradictions between the numbers of samples in the manifest."""
    counts: dict[tuple, int] = {}
    for file in made.content["files"]:
        if file["split"]:
            what = file["format"], file["resolution"], file["split"]
            counts[what] = counts.get(what, 0) + file["samples"]
    for (format, side, split), count in counts.items():
        if count != made.count(split):
            where = format if side is None else f"{format} at {side}"
            yield f"{manifest.NAME}: {count} samples of {split} in {where}, not {made.count(split)}"


class File(NamedTuple):
    """A file as in the manifest."""

    path: str
    format: str
    resolution: int | None
    split: str | None
    samples: int
    bytes: int
    sha256: str


def check_file(folder: Path, file: File) -> list[str]:
    """The problem of a file, or nothing."""
    found = facts_of(folder / file.path)
    if found is None:
        return [f"{file.path} is missing, or cannot be read"]
    if found.bytes != file.bytes:
        return [f"{file.path} has {found.bytes} bytes instead of {file.bytes}"]
    if found.sha256 != file.sha256:
        return [f"{file.path} was altered: its sha256 differs"]
    return []


class Range(NamedTuple):
    """A task: RANGE samples of a split, from `first` on."""

    split: str
    first: int


def check_images(made: Manifest, task: Range) -> list[str]:
    """The first SHOWN problems of the images of a range."""
    count = min(RANGE, made.count(task.split) - task.first)
    sources = {
        (format, side): read.images(made, format, side, task.split, task.first, count)
        for format in read.formats(made)
        for side in made.resolutions
    }
    problems: list[str] = []
    for line in read.index(made, task.split, task.first, count):
        where = f"{task.split} {line['key']} ({line['name']})"
        pool.note(where)
        try:
            found = {what: next(images) for what, images in sources.items()}
            problems += (f"{where}: {text}" for text in compare(made, line, found))
        except (StopIteration, DatasetError, ValueError, OSError) as error:
            problems.append(f"{where}: {error or 'missing'}")
            break
    if len(problems) > SHOWN:
        problems[SHOWN:] = [f"... and {len(problems) - SHOWN} more of {task.split}"]
    return problems


def compare(
    made: Manifest, line: dict[str, Any], found: dict[tuple[str, int], read.Image]
) -> Iterator[str]:
    """The problems of a sample, given its line of the index and its image in each file."""
    for (format, side), image in found.items():
        if image.key not in ("", line["key"]):
            yield f"{format} at {side} holds {image.key} in its place"
        if image.label != line["label"]:
            yield f"{format} at {side} has the label {image.label}, not {line['label']}"
        if image.pixels.shape != (side, side, 3):
            yield f"{format} at {side} is of shape {image.pixels.shape}"
            return
    for format in read.formats(made):
        for side in made.resolutions[:-1]:
            above = found[format, 2 * side].pixels.astype(np.float32)
            mean = above.reshape(side, 2, side, 2, 3).mean(axis=(1, 3))
            if differ(mean, found[format, side].pixels, read.lossless(made, format)):
                yield f"{format} at {side} is not the mean of {2 * side}"
    if len(read.formats(made)) == 2:
        exact = all(read.lossless(made, format) for format in read.formats(made))
        for side in made.resolutions:
            tar, beton = found["webdataset", side].pixels, found["ffcv", side].pixels
            if (tar != beton).any() if exact else differ(tar.astype(np.float32), beton, False):
                yield f"the images of both formats differ at {side}"


def differ(expected: np.ndarray, pixels: np.ndarray, lossless: bool) -> bool:
    """Whether pixels differ from `expected` (float32) by more than rounding, or JPEG, explains."""
    error = np.abs(expected - pixels)
    return bool(error.max() > WITHIN if lossless else error.mean() > LOSSY)
