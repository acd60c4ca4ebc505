"""The log of a training in its folder: `metrics.jsonl`, one line per logging step.

MLflow gets from it what it missed, and a resumed training what it has evaluated.
"""

import errno
import json
import os
from pathlib import Path

from pipeline.records.files import whole


class Journal:
    """Lines {"images": n, "resolution": r, name: value, ...} in the order of images seen."""

    def __init__(self, path: Path):
        self.path = path
        self.lines: list[dict] = []
        self.complete = path.exists()
        """Whether the file holds the lines and nothing else."""
        if path.exists():
            text = path.read_text()
            self.complete = text == _complete(text)
            self.lines = [json.loads(line) for line in _complete(text).splitlines()]

    def rewind(self, images: int) -> None:
        """Drops the lines after `images` images seen; they will be written again."""
        kept = [line for line in self.lines if line["images"] <= images]
        if len(kept) == len(self.lines) and self.complete:
            return
        self.lines, self.complete = kept, True
        with whole(self.path) as beside:
            beside.write_text("".join(json.dumps(line) + "\n" for line in self.lines))

    def write(self, images: int, resolution: int, values: dict[str, float]) -> None:
        """Appends a line. OSError where the disk is full; the file stays valid."""
        line = {"images": images, "resolution": resolution, **values}
        self.lines.append(line)
        data = (json.dumps(line) + "\n").encode()
        with self.path.open("ab", buffering=0) as file:
            before = file.tell()
            if file.write(data) < len(data):
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def has(self, images: int, name: str) -> bool:
        """Whether `name` was measured at `images` images seen."""
        return any(line["images"] == images and name in line for line in self.lines)

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """(images, value) by name."""
        curves: dict[str, list[tuple[int, float]]] = {}
        for line in self.lines:
            for name, value in line.items():
                if name not in ("images", "resolution"):
                    curves.setdefault(name, []).append((line["images"], value))
        return curves


def _complete(text: str) -> str:
    """`text` without a last line that a kill truncated."""
    return text[: text.rfind("\n") + 1]
