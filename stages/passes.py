"""Converts stages given in passes over the training images, as published, into images."""

from typing import Any

from dataprep.manifest import Manifest
from pipeline.config import ConfigError

COUNTED = {"passes": "images", "fade_passes": "fade"}


def counted(content: dict[str, Any]) -> dict[str, Any]:
    """A configuration's content with `images` and `fade` for `passes` and `fade_passes` of stages,
    and `vae_images` for `vae_passes`, rounded to whole steps. ConfigError."""
    stages = content.get("stages")
    named = [s for s in stages if isinstance(s, dict)] if isinstance(stages, list) else []
    if "vae_passes" not in content and not any(key in s for s in named for key in COUNTED):
        return content
    try:
        size = Manifest.load(content["data"]["path"]).count("train")
    except (KeyError, TypeError):
        raise ConfigError("stages in passes need data.path: the dataset to count") from None
    content = dict(content, stages=[_stage(stage, size) for stage in stages])
    if "vae_passes" in content:
        content["vae_images"] = round(content.pop("vae_passes") * size)
    return content


def _stage(stage: dict[str, Any], size: int) -> dict[str, Any]:
    stage = dict(stage)
    for key, images in COUNTED.items():
        if key not in stage:
            continue
        if images in stage:
            raise ConfigError(f"a stage has both {key} and {images}: name one")
        batch, passes = stage.get("batch"), stage.pop(key)
        if not isinstance(batch, int) or batch < 1 or not isinstance(passes, int | float):
            raise ConfigError(f"{key} should be a number, and the stage should have a batch")
        stage[images] = max(batch, round(passes * size / batch) * batch)
    return stage
