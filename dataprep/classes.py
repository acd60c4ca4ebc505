"""The class of an image: by its folder, or by the label stored with it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dataprep.manifest import DatasetError
from dataprep.runtime.sort import read_rows
from dataprep.settings import Settings
from dataprep.sources import cifar, parquet
from dataprep.sources.source import Container
from dataprep.split import side_of_folder


def labels(
    settings: Settings, sorted_rows: Path, containers: list[Container]
) -> tuple[list[str], Callable[[str, Any], int]]:
    """The names of the classes, and a function (name, stored label) -> label of an image, or -1.

    Stored labels keep their numbers if the source declares names for all; else the classes are the
    sorted values.
    """
    if settings.labels == "none":
        return [], lambda name, stored: -1
    if settings.labels == "folder":
        folder_of = partial(class_folder, as_delivered=settings.split == "folder")
        found = sorted({folder_of(row[0]) for row in read_rows(sorted_rows)})
        if len(found) < 2:
            raise DatasetError("--labels folder: all images are in one folder; use --labels none")
        number = {folder: i for i, folder in enumerate(found)}
        return found, lambda name, stored: number[folder_of(name)]
    values = {row[3] for row in read_rows(sorted_rows)} - {None}
    if not values:
        raise DatasetError(
            "--labels stored: no labels are stored with these images (a .cls beside an image in a "
            "tar, or `label` in a .json there; a column in parquet; `label` in a TFRecord; a "
            "StyleGAN's dataset.json in a folder or zip): name the column with --label-column, "
            "or use --labels none"
        )
    declared = declared_classes(containers, settings.label_column)
    if declared and all(isinstance(v, int) and 0 <= v < len(declared) for v in values):
        return declared, lambda name, stored: -1 if stored is None else stored
    ordered = sorted(values, key=lambda v: (isinstance(v, str), v))
    number = {value: i for i, value in enumerate(ordered)}
    return [str(v) for v in ordered], lambda name, stored: number.get(stored, -1)


def declared_classes(containers: list[Container], column: str | None) -> list[str]:
    """The class names in the schema of parquet files, or beside CIFAR's, if all agree; else []."""
    found = {tuple(declared_in(container, column)) for container in containers}
    return list(found.pop()) if len(found) == 1 else []


def declared_in(container: Container, column: str | None) -> list[str]:
    path = Path(container.path)
    if container.kind == "cifar":
        return cifar.class_names(path)
    return parquet.class_names(path, column) if container.kind == "parquet" else []


def class_folder(name: str, as_delivered: bool) -> str:
    """The folder of an image; `as_delivered`, without its split: train/cat is cat."""
    parts = name.split("/")[:-1]
    if as_delivered:
        side = next(i for i in range(len(parts)) if side_of_folder("/".join(parts[: i + 1])))
        del parts[side]
    return "/".join(parts)
