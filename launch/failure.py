"""Why the last training in a folder failed: a file there, until the next one starts."""

import contextlib
from pathlib import Path

NAME = "failed"


def keep(folder: Path, reason: object) -> None:
    with contextlib.suppress(OSError):  # a full disk
        (folder / NAME).write_text(f"{reason}\n")


def clear(folder: Path) -> None:
    (folder / NAME).unlink(missing_ok=True)


def read(folder: Path) -> str | None:
    """The first line of the reason; None if the last training did not fail."""
    path = folder / NAME
    return path.read_text().strip().partition("\n")[0] if path.exists() else None
