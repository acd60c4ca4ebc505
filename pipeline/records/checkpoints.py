"""Checkpoints: one folder each of safetensors and JSON, written atomically, verified when read.

    checkpoints/000120000/
      weights.safetensors     both networks, float32; those that pipeline/convert.py made may have
                              the published code's running mean of w beside them, `mean_style`
      ema.safetensors         their moving averages, and the mean of w as `mean_style`
      optimizer.safetensors   Adam's v of the parameters that the stage trains, by their names, and
                              where beta_1 is not 0 its m, by NAME.exp_avg
      checkpoint.json         images seen, configuration, resolution, alpha, step counts, versions,
                              and the sha256 of the other files; `converted` where it was

DeepSpeed's own checkpoints are pickles, and bound to a number of processes and a ZeRO stage; these
are not. Nothing else is state: data order, schedule and random draws are functions of images seen.
"""

import json
import re
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.records.files import save_tensors, sha256, whole

FORMAT = "soft-introvae-checkpoint/1"
PARTS = ("weights", "ema", "optimizer")


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message names it and what is wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's content; tensors on the CPU, by name."""

    weights: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    about: dict[str, Any]
    """images, config, resolution, alpha, engines: {encoder, decoder: {steps, ...}}"""


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes `folder`, which must not exist. OSError where it cannot be; then nothing is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole(folder) as beside:
        beside.mkdir()
        for part in PARTS:
            tensors = {name: t.contiguous() for name, t in getattr(checkpoint, part).items()}
            save_tensors(tensors, beside / f"{part}.safetensors")
        versions = {name: version(name) for name in ("torch", "deepspeed", "safetensors")}
        digests = {path.name: sha256(path) for path in sorted(beside.iterdir())}
        about = {"format": FORMAT, **checkpoint.about, "versions": versions, "sha256": digests}
        (beside / "checkpoint.json").write_text(json.dumps(about, indent=1) + "\n")


def load(folder: Path) -> Checkpoint:
    """Reads what `save` wrote; CheckpointError where it is not whole."""
    about = read_about(folder)
    weights, ema, optimizer = (read_part(folder, about, part) for part in PARTS)
    return Checkpoint(weights, ema, optimizer, about)


def read_about(folder: Path) -> dict[str, Any]:
    """checkpoint.json; CheckpointError where it cannot be read."""
    try:
        about = json.loads((folder / "checkpoint.json").read_text())
        if about["format"] != FORMAT:
            raise CheckpointError(f"{folder} is of format {about['format']}, not {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from None
    return about


def read_part(folder: Path, about: dict[str, Any], part: str) -> dict[str, Tensor]:
    """The tensors of one of PARTS; CheckpointError where they are not those that were saved."""
    path = folder / f"{part}.safetensors"
    try:
        digest = about["sha256"][path.name]
        if sha256(path) != digest:
            raise CheckpointError(f"{path} is damaged: its sha256 is not {digest}")
        return load_file(path)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from None


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, by images seen, the latest first."""
    found = [p for p in folder.glob("*") if re.fullmatch(r"\d{9,}", p.name)]
    return sorted(found, key=lambda p: int(p.name), reverse=True)


def set_aside(path: Path) -> Path:
    """Renames a checkpoint that cannot be used, so that it is neither read, counted nor removed."""
    aside = path.with_name(f"{path.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    return path.rename(aside)


def key(parameter: str, moment: str) -> str:
    """The name in optimizer.safetensors of one of Adam's moments of a parameter."""
    return parameter if moment == "exp_avg_sq" else f"{parameter}.{moment}"


def path_of(folder: Path, images: int) -> Path:
    return folder / f"{images:09}"


def prune(folder: Path, keep: set[int], newest: int = 2) -> None:
    """Removes all but the newest checkpoints and those at the images seen in `keep`.

    Also what a killed process has left half written or half removed.
    """
    for pattern in (".*.partial", ".*.removed"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)
    for path in newest_first(folder)[newest:]:
        if int(path.name) not in keep:
            doomed = path.with_name(f".{path.name}.removed")
            path.rename(doomed)  # so that what is half removed is not read
            shutil.rmtree(doomed)
