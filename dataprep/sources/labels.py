"""Labels that are stored with images: numbers or texts."""

import json
from pathlib import Path

from dataprep.manifest import DatasetError

NAME = "dataset.json"  # StyleGAN's: {"labels": [["00000/img00000000.png", 6], ...]} or null
MAX_BYTES = 2**20  # of a file with one label


def of_text(content: bytes) -> int | str:
    """The label in a .cls file."""
    text = content.decode("utf-8", "replace").strip()
    try:
        return int(text)
    except ValueError:
        return text


def of_json(content: bytes, key: str) -> int | str | None:
    """The label under `key` in a .json file, or None."""
    try:
        value = json.loads(content)[key]
    except (ValueError, KeyError, TypeError):
        return None
    return of_value(value)


def of_value(value) -> int | str | None:
    """A stored label; None if it is -1 or None."""
    if value is None or value == -1:  # Hugging Face stores hidden labels as -1
        return None
    return value if isinstance(value, int) else str(value)


def of_names(content: bytes, where: str | Path) -> dict[str, int | str | None]:
    """The labels in StyleGAN's dataset.json, by name; DatasetError if they are not classes."""
    try:
        pairs = json.loads(content)["labels"] or []
        found = {name: label for name, label in pairs}
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{where} has no labels in the format of StyleGAN's tool: {error}"
        ) from None
    for name, label in found.items():
        if not isinstance(label, int | str | None):
            raise DatasetError(
                f"{where}: the label of {name} is {label!r}, not one class; use --labels none"
            )
    return {name: of_value(label) for name, label in found.items()}
