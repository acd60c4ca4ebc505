"""Micro-batches that fit into the memory of a GPU, and an error for those that do not."""

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from pipeline import memory
from pipeline.config import ConfigError
from pipeline.memory import GIB, USABLE
from stages import plan, schedule
from stages.config import Config, StageConfig

# GiB of a card by its name in gres: the smallest that is made, by the manufacturer's data sheets.
# NVIDIA's library gives SLURM names that have the size in them, as nvidia_a100-sxm4-80gb.
TYPES = {"b200": 180, "h200": 141, "h100": 80, "a100": 40, "l40s": 48, "l40": 48, "a40": 48,
         "l4": 24, "a10": 24, "v100": 16, "t4": 16}  # fmt: skip


class Card(NamedTuple):
    """What holds the memory of a process."""

    gib: float | None
    """None where it is not known."""
    source: str
    """How it is known, or what would say it."""
    gpu: bool = True


def here(count: int) -> Card:
    """Of `count` processes on this machine."""
    if torch.cuda.is_available():
        sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(count)
                 if i < torch.cuda.device_count()]  # fmt: skip
        return Card(min(sizes) / GIB, torch.cuda.get_device_name())
    total = psutil.virtual_memory().total / count
    return Card(total / GIB, f"this machine's, for each of {count} processes", gpu=False)


def of_nodes(given: float | None, gres: str, gpus: int) -> Card:
    """Of a node's GPUs: as `given`, or by the types in `gres`, as in gpu:h100:8."""
    if given or not gpus:
        return Card(given, "as given" if given else "", gpu=gpus > 0)
    found = {kind: _size(kind) for kind in re.findall(r"gpu:([^:,()|]+):\d", gres.lower())}
    if not found or None in found.values():
        return Card(None, "gres names no type that is known; --gpu-memory GIB says it")
    kind = min(found, key=lambda kind: found[kind])
    return Card(found[kind], f"{kind} in gres; --gpu-memory says otherwise")


def _size(kind: str) -> float | None:
    """GiB of a card by its name."""
    if size := re.search(r"(\d+)gb", kind):
        return float(size[1])
    return TYPES.get(next((part for part in re.split(r"[-_ ]", kind) if part in TYPES), ""))


def sized(
    config: Config,
    folder: Path,
    world: int,
    card: Card,
    branch: str | None = None,
    refuse: bool = True,
) -> tuple[Config, list[str]]:
    """`config` with a number for each micro_batch that is null, and lines to print.

    A run in `folder`, or the one it branches off, keeps its numbers. A step that does not fit the
    card is a ConfigError if `refuse`, else a line: a rehearsal tries what the count says.
    """
    known = plan.read(folder)
    if known is None and branch:
        known = plan.read(Path(branch.partition("@")[0]))
    stages, lines, large = [], [], False
    for stage in config.stages:
        images = stage.micro_batch
        if images is None:
            images = _kept(known, stage) or _largest(config, stage, world, card)
            stage = replace(stage, micro_batch=images)
            lines.append(f"micro_batch at {stage.resolution}x{stage.resolution}: {images}")
        if not _fits(config, stage, images, world, card):
            message = _too_large(config, stage, world, card)
            if refuse:
                raise ConfigError(message)
            lines.append(message)
            large = True
        stages.append(stage)
    lines.append(shares(stages, world))
    if card.gib is None and card.source:
        lines.append(f"not checked, the memory of a GPU: {card.source}")
    elif card.gib and memory.countable(config.shape) and not large:
        lines.append(f"memory: all steps fit {card.gib:.0f} GiB ({card.source})")
    return replace(config, stages=stages), lines


def shares(stages: list[StageConfig], world: int) -> str:
    """What each process has of a step, as micro-batches x images."""
    each = [
        f"{stage.resolution}x{stage.resolution} {stage.batch // stage.micro_batch // world} x "
        f"{stage.micro_batch}"
        for stage in stages
        if stage.batch // stage.micro_batch % world == 0
    ]
    number = "1 process" if world == 1 else f"{world} processes"
    return f"{number}; micro-batches x images of each in a step: {', '.join(each)}"


def _kept(known: Config | None, stage: StageConfig) -> int | None:
    """The run's own number, if it has a stage of this resolution and batch."""
    if known is None:
        return None
    alike = (stage.resolution, stage.batch)
    found = (s.micro_batch for s in known.stages if (s.resolution, s.batch) == alike)
    return next(found, None)


def _largest(config: Config, stage: StageConfig, world: int, card: Card) -> int:
    """The most images that fit and divide a process's share of the batch. ConfigError."""
    if config.shape.WHOLE_BATCHES:
        return stage.batch
    if stage.batch % world:
        raise ConfigError(
            f"{world} processes cannot share a batch of {stage.batch} images at "
            f"{stage.resolution}x{stage.resolution}: use a number that divides it"
        )
    share = stage.batch // world
    for images in range(share, 0, -1):
        if share % images == 0 and _fits(config, stage, images, world, card):
            return images
    raise ConfigError(_too_large(config, replace(stage, micro_batch=1), world, card))


def _fits(config: Config, stage: StageConfig, images: int, world: int, card: Card) -> bool:
    """Whether a step with micro-batches of so many images fits, as far as it is known."""
    if card.gib is None or not memory.countable(config.shape):
        return True
    limit, share = USABLE * card.gib * GIB, max(images, stage.batch // world)
    if memory.bound(config.shape, stage.resolution, share) <= limit:
        return True  # without counting
    return needed(config, stage, images, world, card) <= limit


def needed(config: Config, stage: StageConfig, images: int, world: int, card: Card) -> float:
    """Bytes of a process in a step, counted."""
    precision = config.engine.precision
    if precision == "auto":
        precision = "bf16" if card.gpu else "fp32"
    objective = schedule.objective_at(config, stage, config.vae_images)
    counted = memory.step(
        config.shape, objective, stage.resolution, precision.replace("fp16", "bf16"), card.gpu
    )
    return counted.of(images, max(1, stage.batch // images // world))


def _too_large(config: Config, stage: StageConfig, world: int, card: Card) -> str:
    def size(images: int) -> str:
        return f"{needed(config, stage, images, world, card) / GIB:.1f} GiB"

    images, side = stage.micro_batch, stage.resolution
    fewer = [n for n in range(images - 1, 0, -1)
             if stage.batch % n == 0 and stage.batch // n % world == 0]  # fmt: skip
    fit = next((n for n in fewer if _fits(config, stage, n, world, card)), None)
    helps = "also one image at a time does not fit: use more processes, or smaller networks"
    if fit:
        helps = f"with a micro_batch of {fit} in this stage it needs {size(fit)}"
    return (
        f"a step at {side}x{side} needs {size(images)} in each process (micro_batch {images}, "
        f"counted), more than {USABLE:.0%} of {card.gib:.0f} GiB ({card.source}): {helps}"
    )
