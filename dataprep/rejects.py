"""Images that are left out: how many are too many, and what is told of them."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dataprep.manifest import DatasetError
from dataprep.runtime.files import HashingFile

NAME = "rejects.jsonl"
FIRST = 3  # rejects that a message shows


class Reject(NamedTuple):
    """An image that is left out; `kind` is what a summary counts by."""

    name: str
    kind: str
    reason: str


class Tolerance(NamedTuple):
    """What to do about images that cannot be used: "fail" at the first, or "skip" them up to a
    share of all images."""

    on_error: str = "skip"
    limit: float = 0.01


class Tally:
    """Counts rejects; `add` raises DatasetError where there are more than `tolerance` allows.

    `beside` is where all that are known are then written.
    """

    def __init__(self, tolerance: Tolerance, images: int, beside: Path):
        self.tolerance, self.images, self.beside = tolerance, images, beside
        self.rejects: list[Reject] = []

    def add(self, rejects: Iterable[Reject]) -> None:
        self.rejects += rejects
        if not self.rejects:
            return
        on_error, limit = self.tolerance
        name, _, reason = self.rejects[0]
        if on_error == "fail":
            raise DatasetError(
                f"{name}: {reason}; repair it or leave it out, or use --on-error skip"
            )
        if len(self.rejects) > limit * self.images:
            write(self.beside, self.rejects)
            shown = "; ".join(f"{name}: {reason}" for name, _, reason in self.rejects[:FIRST])
            raise DatasetError(
                f"{len(self.rejects):,} of {self.images:,} images cannot be used, and "
                f"--reject-limit {limit:g} allows {int(limit * self.images):,} "
                f"({summary(Counter(r.kind for r in self.rejects))}); the first: {shown}; "
                f"{self.beside} lists them: repair them, or run the same command with a higher "
                "--reject-limit, which keeps what is done"
            )


def write(path: Path, rejects: Iterable[Reject]) -> Counter:
    """Write one JSON line for each; tells how many there are of each kind."""
    kinds: Counter = Counter()
    file = HashingFile(path)
    for reject in rejects:
        file.write(json.dumps(reject._asdict()).encode("ascii") + b"\n")
        kinds[reject.kind] += 1
    file.close()
    return kinds


def summary(kinds: Counter) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
