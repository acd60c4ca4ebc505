"""Changes of a training's configuration.

The computation depends only on the configuration and the images seen. A training can therefore
continue with another configuration that agrees on the images already seen. `Config.history` lists
the changes and the images at which they apply. A new training with this history gives the same
weights, bit for bit.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline import networks
from pipeline.config import ConfigError, flat, parse, plain
from pipeline.records import checkpoints
from pipeline.records.files import whole
from stages import schedule
from stages.config import Change, Config, StageConfig

# Prefixes of keys that may differ when a training is resumed: they do not change what is computed.
FREE = (
    "name", "data.path", "data.loader", "data.workers", "data.cache", "data.timeout",
    "data.retry_seconds", "data.allow_pipe", "tracking.", "evaluation.", "every.", "history",
    "origin", "faults.", "data.verify", "shape.vgg16", "sweep", "engine.graphs",
)  # fmt: skip


def parts(config: Config) -> list[tuple[Config, int]]:
    """The configurations of a training in order, each with its history and the images seen at its
    end."""
    content, end = plain(config), schedule.total(config)
    found = []
    for change in reversed(config.history):
        found.append((parse(Config, content, "history"), end))
        content, end = content | change.was, change.images
        content["history"] = content["history"][:-1]
    found.append((parse(Config, content, "history"), end))
    return found[::-1]


def of_dataset(config: Config, digest: str) -> Config:
    """`config` with the digest of its dataset; ConfigError if it belongs to another dataset."""
    if config.dataset_digest not in (None, digest):
        raise ConfigError(
            f"the configuration was trained on the dataset {config.dataset_digest[:12]}..., but "
            f"{config.data.path} is {digest[:12]}...: set data.path to the first dataset, or set "
            f"dataset_digest=null to train on the second"
        )
    return replace(config, dataset_digest=digest)


def with_precision(config: Config, chosen: Any) -> Config:
    """`config` with `chosen` for an engine.precision of auto."""
    if config.engine.precision != "auto":
        return config
    return replace(config, engine=replace(config.engine, precision=chosen))


def read(folder: Path) -> Config | None:
    """The configuration of the training in `folder`; None if there is none. ConfigError."""
    path = folder / "config.yaml"
    return parse(Config, yaml.safe_load(path.read_text()), str(path)) if path.exists() else None


def write(folder: Path, config: Config) -> None:
    """Writes config.yaml to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / "config.yaml") as beside:
        beside.write_text(yaml.safe_dump(plain(config), sort_keys=False))


def continued(config: Config, folder: Path, digest: str, replan: bool) -> Config:
    """`config` as the next configuration of the training in `folder`, with its history.

    `digest` is the dataset's. ConfigError if `config` computes something else and `replan` is
    false, or if it contradicts the images that are trained already. A branch that has trained
    nothing of its own needs no `replan`.
    """
    config = of_dataset(config, digest)
    known = read(folder)
    if known is None:
        return config
    config = with_precision(config, known.engine.precision)
    if not compare(plain(known), plain(config)):
        return replace(config, history=known.history, origin=known.origin)
    images = position(folder)
    if not images:  # nothing is trained
        return replace(config, history=[], origin=None)
    in_force = next(part for part, end in parts(known) if end >= images)
    history = [change for change in known.history if change.images < images]
    old, new = plain(in_force), plain(config)
    changes = compare(old, new)
    if not changes:
        return replace(config, history=history, origin=known.origin)
    listed = "\n".join(f"  {line}" for line in changes)
    if contradiction := contradicts(in_force, config, images):
        raise ConfigError(
            f"{folder} holds a training of {images:,} images by another configuration:\n{listed}\n"
            f"It cannot continue with this one: {contradiction}. Name another --output"
        )
    if images >= schedule.total(config):
        raise ConfigError(
            f"{folder} has trained all its {images:,} images, by another configuration:\n{listed}\n"
            f"Give a stage more images, or add one, for these changes to apply to; for a new "
            f"training, add --output FOLDER"
        )
    if not replan and not is_new_branch(known, images):
        raise ConfigError(
            f"{folder} holds a training of {images:,} images by another configuration:\n{listed}\n"
            f"To continue with these changes from image {images:,}, add --replan; for a new "
            f"training, add --output FOLDER"
        )
    sections = {key.partition(".")[0] for key in differing(old, new)}
    if "dataset_digest" in sections:
        sections.add("data")
    was = {key: old[key] for key in old if key in sections}
    change = Change(images=images, changes=changes, was=was)
    return replace(config, history=[*history, change], origin=known.origin)


def is_new_branch(config: Config, images: int) -> bool:
    """Whether a training that branched off has trained nothing of its own at `images` images."""
    origin = config.origin
    return origin is not None and not origin.weights_only and images == origin.images


def position(folder: Path) -> int:
    """Images seen at the newest checkpoint of the training in `folder`; 0 without one."""
    found = checkpoints.newest_first(folder / "checkpoints")
    return int(found[0].name) if found else 0


def contradicts(old: Config, new: Config, images: int) -> str | None:
    """The reason why `new` cannot follow `old` after `images` images, or None."""
    moment = schedule.at(old, images - 1)
    for number, stage in enumerate(old.stages[: moment.number]):
        if number >= len(new.stages) or _trained(stage) != _trained(new.stages[number]):
            return f"stage {number} ({stage.resolution}x{stage.resolution}) is trained already"
    if moment.number >= len(new.stages):
        return f"stage {moment.number} is in training and is not in the new configuration"
    before, after = old.stages[moment.number], new.stages[moment.number]
    if (before.resolution, before.fade) != (after.resolution, after.fade):
        return f"resolution and fade of stage {moment.number}, which is in training, are fixed"
    seen = images - moment.first
    if after.images < seen:
        return f"stages.{moment.number}.images must be at least {seen}, the images it has seen"
    if (after.images - seen) % after.batch:
        return (
            f"batch {after.batch} does not divide the remaining {after.images - seen} images of "
            f"stage {moment.number}"
        )
    return shape_conflict(old.shape, new.shape)


def _trained(stage: StageConfig) -> dict:
    return {key: value for key, value in plain(stage).items() if key != "every"}


def shape_conflict(smaller: networks.Shape, larger: networks.Shape) -> str | None:
    """A message about the first parameter of `smaller` that does not fit `larger`, or None."""
    with torch.device("meta"):
        here, there = (networks.build(s).state_dict() for s in (smaller, larger))
    return tensor_mismatch({name: t.shape for name, t in here.items()}, there)


def tensor_mismatch(given: dict[str, torch.Size], wanted: dict[str, torch.Tensor]) -> str | None:
    """A message about the first tensor of `given` that is missing or has another size in `wanted`.
    None if there is none."""
    for name, size in given.items():
        if name not in wanted:
            return f"the new networks have no tensor {name}"
        if size != wanted[name].shape:
            return (
                f"{name} has shape {tuple(size)}, the new networks need {tuple(wanted[name].shape)}"
                f" (shape.base_channels are the channels at shape.resolution; they double at each "
                f"lower resolution)"
            )
    return None


def differing(old: dict, new: dict) -> dict[str, tuple]:
    """Keys that change what is computed and differ, with both values."""
    # Null equals a missing key: the training may be older than the key.
    old, new = ({k: v for k, v in flat(c).items() if v is not None} for c in (old, new))
    missing = "not set"
    return {
        key: (old.get(key, missing), new.get(key, missing))
        for key in sorted(old.keys() | new.keys())
        if old.get(key, missing) != new.get(key, missing)
        and not key.startswith(FREE)
        and ".every" not in key
    }


def agreement(one: Config, other: Config) -> int:
    """The images up to which two configurations compute the same.

    The end of a stage, or of the shorter of two that differ in their images alone.
    """
    if differing(_outside_stages(one), _outside_stages(other)):
        return 0
    seen = 0
    for first, second in zip(one.stages, other.stages):
        if _settings(one, first, seen) != _settings(other, second, seen):
            break
        seen += min(first.images, second.images)
        if first.images != second.images:
            break
    return seen


def _outside_stages(config: Config) -> dict:
    content = plain(config)
    return {k: v for k, v in content.items() if k not in ("stages", "objective", "vae_images")}


def _settings(config: Config, stage: StageConfig, first: int) -> tuple:
    """What a stage that begins at `first` images computes with, but for the number of images."""
    content = {k: v for k, v in _trained(stage).items() if k not in ("images", "beta_neg")}
    vae = max(0, min(config.vae_images - first, stage.images))
    both = (schedule.objective_at(config, stage, images) for images in (first, first + vae))
    return content, vae, *both


def compare(old: dict, new: dict) -> list[str]:
    """The differences between two configurations as lines: "key was a, is b"."""
    found = differing(old, new).items()
    return [f"{key} was {_short(before)}, is {_short(after)}" for key, (before, after) in found]


def _short(value) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
