"""Which files are images, by their names."""

import os
import re

EXTENSIONS = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN"}  # of a Mac's archives, a NAS's previews, Windows


def rule_of(name: str) -> str | None:
    """The rule that skips a path in a source; None for an image.

    Images are recognised by their extension, unless they are hidden or in FOLDERS.
    """
    parts = name.split("/")
    if FOLDERS & {*parts} or any(p[:1] == "." and p[:2] != ".." for p in parts):
        return "hidden"
    extension = os.path.splitext(parts[-1])[1].lower()
    if extension in EXTENSIONS:
        return None
    if not extension:
        return "without an extension"
    # Numbers after a dot are not extensions: there may be a million of them.
    known = re.fullmatch(r"\.(?![0-9]+$)[a-z0-9]{1,10}", extension, re.ASCII)
    return extension if known else "of another extension"
