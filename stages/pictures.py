"""Images of a model from fixed draws and fixed test images."""

import numpy as np
import torch
from PIL.Image import Image

from dataprep.manifest import Manifest
from pipeline.data.loaders import DataConfig, split_images, to_uint8
from pipeline.networks.family import ResolutionModel
from pipeline.pictures.grids import grid, reconstructions

COLUMNS, SHOWN, STRIPS = 8, 32, 4


@torch.no_grad()
def of(model: ResolutionModel, data: DataConfig, manifest: Manifest, seed: int) -> dict[str, Image]:
    """By name: test images over their reconstructions, samples, and interpolations."""
    count, device = min(SHOWN, manifest.count("test")), model.device
    indices = np.arange(count)
    x, labels = next(split_images(data, manifest, model.resolution, "test", indices, count, device))
    torch.manual_seed(seed)
    shown = model.on(x, labels)
    mu = shown.encode(x)[0]
    found = {
        "reconstructions": reconstructions(to_uint8(x), to_uint8(shown.decode(mu)), COLUMNS),
        "samples": grid(to_uint8(model.generate(2 * SHOWN)), COLUMNS),
    }
    if count > STRIPS:
        steps = torch.linspace(0, 1, COLUMNS, device=device)[:, None]
        ways = [torch.lerp(mu[i : i + 1], mu[i + 1 : i + 2], steps) for i in range(STRIPS)]
        z = torch.cat(ways)
        first = None if labels is None else labels[:STRIPS].repeat_interleave(COLUMNS)
        found["interpolations"] = grid(to_uint8(model.on(z, first).decode(z)), COLUMNS)
    return found
