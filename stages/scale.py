"""One number for more GPUs: `scale` multiplies batches, and rates and averages follow by rules.

`scale: 8` makes every stage's batch at least 8 times the smallest of the configuration, and lets 8
times as many processes share it. What follows, for a batch that grew by k, each as its function
below; images and half-lives in images stay. Results are plain numbers in `config.yaml`. The rules
are from studies of other networks; for introspective ones nobody has published any.
"""

from typing import Any

from pipeline.config import ConfigError
from pipeline.engines import EngineConfig

WARMUP = 5_000
"""Images over which the rate rises at the start of a stage whose batch grew: Adam is new there."""
LARGEST_FACTOR = 2.0
"""Of learning rates. No style network is known to train at more than twice the published one."""


def learning_rate(lr: float, k: float) -> float:
    """lr sqrt(k), capped at twice lr (Malladi et al., arXiv 2205.10287, section 4)."""
    return lr * min(k**0.5, LARGEST_FACTOR)


def beta_2(beta: float, k: float) -> float:
    """beta^k: the half-life of v in images stays (Marek et al., arXiv 2507.07101, section 3)."""
    return beta**k


def eps(value: float, k: float) -> float:
    """eps / sqrt(k): mean gradients are that much smaller (Malladi et al., section 4)."""
    return value / k**0.5


def scaled(content: dict[str, Any]) -> dict[str, Any]:
    """A configuration's content with `scale` worked into its stages; `scale: 1` changes nothing.

    The average needs no rule: `ema_half_life` counts images (Busbridge et al., arXiv 2307.13813).
    ConfigError.
    """
    content = dict(content)
    scale = content.pop("scale", 1)
    if not isinstance(scale, int) or isinstance(scale, bool) or scale < 1:
        raise ConfigError(f"'scale' is {scale!r}: it should be a whole number from 1")
    if scale == 1:
        return content
    stages, engine = content.get("stages"), content.get("engine") or {}
    try:
        smallest = min(stage["batch"] for stage in stages)
        content["stages"] = [_stage(stage, scale, smallest, engine) for stage in stages]
    except (TypeError, KeyError) as error:
        raise ConfigError(f"scale needs stages with batch and lr: {error}") from None
    return content


def _stage(stage: dict[str, Any], scale: int, smallest: int, engine: dict[str, Any]) -> dict:
    batch = max(stage["batch"], smallest * scale)
    k, grown = batch / stage["batch"], dict(stage, batch=batch)
    if stage.get("micro_batch") is not None:
        shares = scale * (stage["batch"] // stage["micro_batch"])
        if batch % shares:
            raise ConfigError(f"scale {scale}: {shares} processes cannot share a batch of {batch}")
        grown["micro_batch"] = min(stage["micro_batch"], batch // shares)
    if "images" in stage:
        grown["images"] = max(1, round(stage["images"] / batch)) * batch
    if k > 1:
        grown["lr"] = learning_rate(stage["lr"], k)
        grown["beta_2"] = beta_2(stage.get("beta_2", engine.get("beta_2", EngineConfig.beta_2)), k)
        grown["eps"] = eps(stage.get("eps", engine.get("eps", EngineConfig.eps)), k)
        grown["warmup"] = stage.get("warmup", WARMUP)
    return grown
