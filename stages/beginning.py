"""Where a training begins: a checkpoint of another run (`--branch`), or the weights of a model.

`Config.origin` records it: the run, the images, and the sha256 of the checkpoint.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

from pipeline import model, networks
from pipeline.config import ConfigError
from pipeline.records import checkpoints
from pipeline.records.checkpoints import CheckpointError
from pipeline.records.files import sha256, whole
from stages import plan
from stages.config import Config, Origin


def branch(parent: str, folder: Path) -> None:
    """Starts a run in `folder` at a checkpoint of another run: `parent` is RUN or RUN@IMAGES.

    Copies the checkpoint, and the parent's configuration up to it. Does nothing if `folder` already
    is this branch. ConfigError.
    """
    run, images = _named(parent)
    known = plan.read(folder)
    if known is not None and plan.position(folder):
        origin = known.origin
        other = origin is None or origin.weights_only or Path(origin.run) != run
        if other or images not in (None, origin.images):
            raise ConfigError(f"{folder} holds another training: name another --output")
        return
    config, chosen = branch_point(parent)
    images = int(chosen.name)
    part = next(part for part, end in plan.parts(config) if end >= images)
    plan.write(folder, replace(part, origin=origin_of(chosen)))
    target = checkpoints.path_of(folder / "checkpoints", images)
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole(target) as beside:
        shutil.copytree(chosen, beside)
        try:
            checkpoints.load(beside)
        except CheckpointError as error:
            raise ConfigError(f"the copy of {chosen}: {error}; name another one") from None


def branch_point(parent: str) -> tuple[Config, Path]:
    """The configuration of RUN or RUN@IMAGES, and the checkpoint that is meant. ConfigError."""
    run, images = _named(parent)
    config, kept = plan.read(run), checkpoints.newest_first(run / "checkpoints")
    if config is None or not kept:
        raise ConfigError(
            f"{run} is not the folder of a run with a checkpoint. --branch RUN@IMAGES continues "
            f"one; --init begins with the weights of a model"
        )
    chosen = kept[0] if images is None else checkpoints.path_of(run / "checkpoints", images)
    if chosen not in kept:
        there = ", ".join(f"{int(path.name):,}" for path in reversed(kept))
        raise ConfigError(f"{run} keeps no checkpoint at {images:,} images; it has: {there}")
    return config, chosen


def run_of(parent: str) -> Path:
    """The folder of RUN or RUN@IMAGES."""
    return _named(parent)[0]


def _named(parent: str) -> tuple[Path, int | None]:
    """The folder and the images of RUN or RUN@IMAGES."""
    found = re.fullmatch(r"(.+)@(\d[\d,]*)", parent)
    path, at = found.groups() if found else (parent, "")
    return Path(path).resolve(), int(at.replace(",", "")) if at else None


def origin_of(checkpoint: Path) -> Origin:
    """The origin of a training that begins with this checkpoint, of a run or a model."""
    about, run = checkpoints.read_about(checkpoint), checkpoint
    if checkpoint.parent.name == "checkpoints":
        run = checkpoint.parent.parent
    known = _mlflow(run)
    return Origin(
        run=str(run),
        images=about.get("images"),
        checkpoint=sha256(checkpoint / "checkpoint.json"),
        dataset=about.get("dataset_digest"),
        mlflow_run=known.get("parent"),
        mlflow_experiment=known.get("experiment_id"),
    )


def begun_with(config: Config, folder: Path) -> Config:
    """`config` with the origin of the weights of `init`, as the run in `folder` has recorded it.

    CheckpointError if there is no model, or its weights do not fit.
    """
    if config.init is None or config.origin is not None:
        return config
    known = plan.read(folder)
    if known is not None and (known.origin or plan.position(folder)):
        return replace(config, origin=known.origin)
    path = model.find(Path(config.init))
    check_weights(path, config.shape)
    return replace(config, origin=replace(origin_of(path), weights_only=True))


def init_checkpoint(config: Config) -> Path | None:
    """The checkpoint whose weights a training begins with; None without `init`. CheckpointError.

    That which `origin` recorded, where it did (a branch has the origin of the branch instead).
    """
    if config.init is None:
        return None
    origin = config.origin
    if origin is None or not origin.weights_only:
        return model.find(Path(config.init))
    kept = Path(origin.run) / "checkpoints" / f"{origin.images or 0:09}"
    path = kept if kept.exists() else model.find(Path(config.init))
    if sha256(path / "checkpoint.json") != origin.checkpoint:
        raise CheckpointError(
            f"{path} is not the checkpoint that the training began with: its checkpoint.json has "
            f"not the sha256 {origin.checkpoint}"
        )
    return path


def check_weights(path: Path, shape: networks.Shape) -> None:
    """CheckpointError where the weights of the checkpoint `path` do not fit networks of `shape`."""
    about = checkpoints.read_about(path)
    given = model.shape_of(path, about)
    if given.kind != shape.kind:
        raise CheckpointError(
            f"{path} does not fit the configuration: its networks are of shape.kind {given.kind}, "
            f"not {shape.kind}"
        )
    if reason := plan.shape_conflict(given, shape):
        raise CheckpointError(f"{path} does not fit the configuration: {reason}")


def _mlflow(run: Path) -> dict[str, str]:
    path = run / "mlflow.json"
    return json.loads(path.read_text()) if path.exists() else {}
