"""What is to be made of a source: which image is which sample, of which split, with which label."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dataprep import split
from dataprep.manifest import SPLITS, DatasetError


class Sample(NamedTuple):
    """One image of the source; its slot is its place in its split; label -1 says it has none."""

    name: str
    slot: int
    label: int

    @property
    def key(self) -> str:
        """Its name in the tars: a number, since not every name of a file is legal there."""
        return f"{self.slot:09d}"


class Plan(NamedTuple):
    """The samples of each split in order, the split rule taken and why, the names of the labels."""

    samples: dict[str, list[Sample]]
    rule: str
    why: str
    classes: list[str]


def plan(names: Sequence[str], asked: str, test_fraction: float, labels: str) -> Plan:
    """Order `names` (sorted) into splits by the rule `asked`; `labels` is "none" or "folder"."""
    classes, label_of = by_folder(names) if labels == "folder" else ([], {})
    rule, why, test = split.split(names, asked, test_fraction)
    samples: dict[str, list[Sample]] = {name: [] for name in SPLITS}
    for name, is_test in zip(names, test):
        part = samples["test" if is_test else "train"]
        part.append(Sample(name, len(part), label_of.get(name, -1)))
    return Plan(samples, rule, why, classes)


def by_folder(names: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """The classes, which are the folders that images lie in, and the label of each name."""
    folders = [name.rpartition("/")[0] for name in names]
    classes = sorted(set(folders))
    if len(classes) < 2:
        raise DatasetError("--labels folder: all images lie in one folder; use --labels none")
    number = {folder: i for i, folder in enumerate(classes)}
    return classes, {name: number[folder] for name, folder in zip(names, folders)}


def write_index(path: Path, samples: Sequence[Sample]) -> None:
    """One JSON line per sample, in order: key in the tars, name in the source, label."""
    with path.open("w", encoding="ascii") as file:
        for sample in samples:
            line = {"key": sample.key, "name": sample.name, "label": sample.label}
            file.write(json.dumps(line) + "\n")
