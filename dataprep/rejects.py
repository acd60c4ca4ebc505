"""Rejected images: how many are allowed, and what is reported."""

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
    """An image that cannot be used; summaries count by `kind`."""

    name: str
    kind: str
    reason: str


class RejectPolicy(NamedTuple):
    """Whether to "fail" at the first reject, or to "skip" up to a share `limit` of all images."""

    on_error: str = "skip"
    limit: float = 0.01


class RejectCounter:
    """Counts rejects; `add` raises DatasetError if there are more than `policy` allows.

    It then writes those known so far to `path`.
    """

    def __init__(self, policy: RejectPolicy, images: int, path: Path):
        self.policy, self.images, self.path = policy, images, path
        self.rejects: list[Reject] = []

    def add(self, rejects: Iterable[Reject]) -> None:
        self.rejects += rejects
        if not self.rejects:
            return
        on_error, limit = self.policy
        name, _, reason = self.rejects[0]
        if on_error == "fail":
            raise DatasetError(f"{name}: {reason}; repair or remove it, or use --on-error skip")
        if len(self.rejects) > limit * self.images:
            write(self.path, self.rejects)
            shown = "; ".join(f"{name}: {reason}" for name, _, reason in self.rejects[:FIRST])
            raise DatasetError(
                f"{len(self.rejects):,} of {self.images:,} images cannot be used, and "
                f"--reject-limit {limit:g} allows {int(limit * self.images):,} "
                f"({summary(Counter(r.kind for r in self.rejects))}); the first: {shown}; "
                f"{self.path} lists them: repair them, or run the same command with a higher "
                "--reject-limit to resume"
            )


def write(path: Path, rejects: Iterable[Reject]) -> Counter:
    """Write one JSON line for each reject; return how many there are of each kind."""
    kinds: Counter = Counter()
    file = HashingFile(path)
    for reject in rejects:
        file.write(json.dumps(reject._asdict()).encode("ascii") + b"\n")
        kinds[reject.kind] += 1
    file.close()
    return kinds


def summary(kinds: Counter) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
