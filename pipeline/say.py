"""Lines for the user."""

import contextlib


def say(line: str) -> None:
    """Prints a line at once. Where it goes to a file on a full disk, only the line is lost."""
    with contextlib.suppress(OSError):
        print(line, flush=True)
