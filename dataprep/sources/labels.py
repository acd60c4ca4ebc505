"""Labels as they are stored beside images: numbers or texts."""

import json
from pathlib import Path

from dataprep.manifest import DatasetError

NAME = "dataset.json"  # stylegan's: {"labels": [["00000/img00000000.png", 6], ...]} or null
MAX_BYTES = 2**20  # of a file with one label


def of_text(content: bytes) -> int | str:
    """The label in a .cls: a number where it is one."""
    text = content.decode("utf-8", "replace").strip()
    try:
        return int(text)
    except ValueError:
        return text


def of_json(content: bytes, key: str) -> int | str | None:
    """The label under `key` in a .json; None where it has none."""
    try:
        value = json.loads(content)[key]
    except (ValueError, KeyError, TypeError):
        return None
    return of_value(value)


def of_value(value) -> int | str | None:
    """A label as a program stores it; -1 and None are none."""
    if value is None or value == -1:  # Hugging Face writes hidden labels as -1
        return None
    return value if isinstance(value, int) else str(value)


def of_names(content: bytes, where: str | Path) -> dict[str, int | str | None]:
    """The labels in stylegan's dataset.json, by name. DatasetError where these are no classes."""
    try:
        pairs = json.loads(content)["labels"] or []
        found = {name: label for name, label in pairs}
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{where} holds no labels as stylegan's tool writes them: {error}"
        ) from None
    for name, label in found.items():
        if not isinstance(label, int | str | None):
            raise DatasetError(
                f"{where}: the label of {name} is {label!r}, and not one class; use --labels none"
            )
    return {name: of_value(label) for name, label in found.items()}
