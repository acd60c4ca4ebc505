"""The schedule: a pure function from images seen to what is trained, and how."""

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from pipeline import balance
from pipeline.engines import EngineConfig
from pipeline.objective import VAE, Objective, SoftIntroVAE
from stages.config import Config, Every, StageConfig


@dataclass(frozen=True)
class Moment:
    """The settings at a number of images seen."""

    number: int
    """Of the stage, from 0."""
    stage: StageConfig
    first: int
    """Images seen when the stage began."""
    last: int
    """Images seen when it ends."""
    alpha: float
    """Fade-in of the stage's resolution: 0 to 1."""
    lr: float
    """Learning rate."""
    objective: Objective
    every: Every


def total(config: Config) -> int:
    """Images seen when training is over."""
    return sum(stage.images for stage in config.stages)


def ends(config: Config) -> set[int]:
    """Images seen at the end of each stage."""
    return set(accumulate(stage.images for stage in config.stages))


def at(config: Config, images: int) -> Moment:
    """The settings of the step after `images` images; at the total, those of the last stage."""
    ends = list(accumulate(stage.images for stage in config.stages))
    number = min(bisect_right(ends, images), len(ends) - 1)
    stage, last = config.stages[number], ends[number]
    first = last - stage.images
    return Moment(
        number,
        stage,
        first,
        last,
        fade_in(images - first, stage.fade),
        learning_rate(stage, images - first),
        objective_at(config, stage, images),
        stage.every or config.every,
    )


def fade_in(images: int, fade: int) -> float:
    """alpha after `images` images of a stage: half a cosine from 0 to exactly 1 (spec C.3)."""
    return 0.5 - 0.5 * math.cos(math.pi * images / fade) if images < fade else 1.0


def learning_rate(stage: StageConfig, images: int) -> float:
    """The rate of the step that follows `images` images of a stage: it rises over `warmup`."""
    seen = images + stage.batch
    return stage.lr * seen / stage.warmup if seen < stage.warmup else stage.lr


def engine_of(config: Config, stage: StageConfig) -> EngineConfig:
    """The engine's configuration with the stage's values."""
    own: dict[str, Any] = {"beta_2": stage.beta_2, "eps": stage.eps}
    return replace(config.engine, **{key: v for key, v in own.items() if v is not None})


def objective_at(config: Config, stage: StageConfig, images: int) -> Objective:
    """The stage's objective, or the VAE of the start.

    The VAE has the objective's s, so that Adam's denominators fit the steps that follow. The
    published one has not; its first adversarial steps are a few hundredths of their size (C.6).
    beta_neg changes with the stage, not an epoch later (C.4).
    """
    o = config.objective
    if images < config.vae_images:
        return VAE(beta_rec=o.beta_rec, beta_kl=o.beta_kl, s=o.s)
    if isinstance(o, SoftIntroVAE) and stage.beta_neg is not None:
        return replace(o, beta_neg=stage.beta_neg)
    return o


def ceiling(config: Config, stage: StageConfig) -> float | None:
    """Upper bound of K*, the ceiling of KL in nats (`pipeline.balance`); None without one."""
    objective = objective_at(config, stage, config.vae_images)
    if not isinstance(objective, SoftIntroVAE):
        return None
    return balance.kl_ceiling(objective, 3 * stage.resolution**2)


def due(images: int, batch: int, every: int) -> bool:
    """Whether the step that ended at `images` reached or passed a multiple of `every`."""
    return bool(every) and images // every > (images - batch) // every


def due_growing(images: int, batch: int, first: int) -> bool:
    """Whether the step that ended at `images` reached `first` or its double, fourfold, ..."""
    return bool(first) and (images // first).bit_length() > ((images - batch) // first).bit_length()
