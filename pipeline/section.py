"""The current section of this process's work, for the watchdog."""

from collections.abc import Callable

count, name = 0, "start"
listener: Callable[[str], None] | None = None
"""Called at the start of each section, in a rehearsal."""


def enter(section: str) -> None:
    """Marks the start of `section`: data, encoder, step, decoder, log, checkpoint, ..."""
    global count, name
    if listener is not None:
        listener(section)
    count, name = count + 1, section
