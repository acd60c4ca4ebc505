"""Which files are taken for images, by their names."""

import os
import re

ENDINGS = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN"}  # of a Mac's archives, a NAS's previews, Windows


def rule_of(name: str) -> str | None:
    """The rule by which a path inside a source is passed over; None where it is an image.

    That is told by its ending; hidden files, and those in FOLDERS, are none.
    """
    parts = name.split("/")
    if FOLDERS & {*parts} or any(p[:1] == "." and p[:2] != ".." for p in parts):
        return "hidden"
    ending = os.path.splitext(parts[-1])[1].lower()
    if ending in ENDINGS:
        return None
    if not ending:
        return "without an ending"
    # Numbers and the like behind a dot are no endings: there may be a million of them.
    known = re.fullmatch(r"\.(?![0-9]+$)[a-z0-9]{1,10}", ending, re.ASCII)
    return ending if known else "of another ending"
