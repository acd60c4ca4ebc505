"""The current section of this process's work, for the watchdog."""

count, name = 0, "start"


def enter(section: str) -> None:
    """Marks the start of `section`: data, encoder, step, decoder, log, checkpoint, ..."""
    global count, name
    count, name = count + 1, section
