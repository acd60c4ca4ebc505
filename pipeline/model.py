"""Loads a trained model from a checkpoint, at any trained resolution."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import networks
from pipeline.config import ConfigError, parse
from pipeline.networks.family import PRECISIONS, ModelError
from pipeline.records import checkpoints
from pipeline.records.checkpoints import CheckpointError


def load(
    path: str | Path,
    *,
    resolution: int | None = None,
    alpha: float | None = None,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    averaged: bool = True,
) -> Any:
    """Loads the model of a checkpoint's folder, or of the newest checkpoint in a run's folder.

    `resolution` defaults to the largest trained one. `alpha` is the weight of the fade-in; it
    defaults to the checkpoint's at the largest resolution, and to 1 below. `device` defaults to a
    GPU if there is one. `averaged` False loads the trained weights, not their moving averages.
    Returns `Model` of its family, from the module `trained` in pipeline/networks/FAMILY.
    CheckpointError, ModelError.
    """
    folder = find(Path(path))
    about = checkpoints.read_about(folder)
    part = "ema" if averaged else "weights"
    tensors = checkpoints.read_part(folder, about, part)
    if not tensors:
        raise ModelError(f"{folder} has no {part}: it was converted from a file without them")
    loaded, derived = assemble(shape_of(folder, about), tensors, folder)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if precision not in PRECISIONS:
        raise ModelError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    dtype = torch.float64 if precision == "fp64" else torch.float32
    loaded = loaded.requires_grad_(False).eval().to(device, dtype)
    model = loaded.trained(derived if averaged else {}, about, precision)
    return model.at(resolution or model.resolution, alpha)


def find(path: Path) -> Path:
    """The checkpoint at `path`: `path` itself, or the newest in it or in its checkpoints/."""
    if path.is_file():
        raise CheckpointError(
            f"{path} is a file, and a checkpoint is a folder; convert a published file by  "
            f"python -m pipeline.convert {path} OUT"
        )
    if (path / "checkpoint.json").exists():
        return path
    for folder in (path / "checkpoints", path):
        if found := checkpoints.newest_first(folder):
            return found[0]
    raise CheckpointError(
        f"{path} {'holds' if path.is_dir() else 'does not exist: there is'} no checkpoint"
    )


def shape_of(folder: Path, about: dict[str, Any]) -> networks.Shape:
    """The shape of a checkpoint's networks; CheckpointError."""
    try:
        return parse(networks.Shape, about["config"]["shape"], f"{folder}, shape")
    except (KeyError, TypeError):
        raise CheckpointError(f"{folder}/checkpoint.json has no config.shape") from None
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def assemble(
    shape: networks.Shape, tensors: dict[str, Tensor], origin: Path
) -> tuple[Any, dict[str, Tensor]]:
    """The networks with the weights in `tensors`, in their dtype, and the derived tensors."""
    with torch.device("meta"):
        built = networks.build(shape)
    derived = {name: t for name, t in tensors.items() if name in built.DERIVED}
    weights = {name: t for name, t in tensors.items() if name not in built.DERIVED}
    try:
        built.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{origin} does not match its config.shape: {error}") from None
    return built, derived
