"""Sorts more rows than fit into memory: sorted runs on the disk, merged."""

import heapq
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

RUN = 100_000  # rows in memory: some 50 MB of names


def external_sort(rows: Iterable[list[Any]], folder: Path) -> Iterator[list[Any]]:
    """`rows` (lists of JSON values) in ascending order of their first three values.

    `folder` holds the runs, and is removed at the end.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows, runs = iter(rows), []
    while run := list(itertools.islice(rows, RUN)):
        run.sort(key=first_three)
        runs.append(folder / f"{len(runs):06d}.jsonl")
        write_rows(runs[-1], run)
    yield from heapq.merge(*map(read_rows, runs), key=first_three)
    shutil.rmtree(folder)


def first_three(row: list[Any]) -> list[Any]:
    return row[:3]


def write_rows(path: Path, rows: Iterable[list[Any]]) -> None:
    with path.open("w", encoding="ascii") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def read_rows(path: Path) -> Iterator[list[Any]]:
    with path.open(encoding="ascii") as file:
        yield from map(json.loads, file)
