"""A checkpoint of small networks, as a training would leave it."""

from pathlib import Path

import torch

from pipeline.config import plain
from pipeline.networks.style.autoencoder import Autoencoder
from pipeline.networks.style.shape import Shape
from pipeline.records import checkpoints
from pipeline.records.checkpoints import Checkpoint

SHAPE = Shape(resolution=32, latent=8, base_channels=4, max_channels=8, mapping_layers=2)


def save(folder: Path, resolution: int = 16, alpha: float = 1.0, images: int = 64) -> Path:
    """Random networks that were trained up to `resolution`, in `folder`/000000064."""
    torch.manual_seed(3)
    parts = []
    for _ in range(2):
        made = Autoencoder(SHAPE)
        for name, p in made.named_parameters():
            if "bias" in name or "noise" in name:
                p.data = 0.3 * torch.randn_like(p)
        parts.append(made.state_dict())
    parts[1]["mean_style"] = made.mean_style()
    about = {"images": images, "config": {"shape": plain(SHAPE)}}
    about |= {"resolution": resolution, "alpha": alpha}
    path = checkpoints.path_of(folder, images)
    checkpoints.save(path, Checkpoint(*parts, {}, about))
    return path
