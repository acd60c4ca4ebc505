"""Principal and named directions in w, and edits along them."""

import json
from pathlib import Path

import torch
from torch import Tensor

from pipeline.networks.family import ModelError
from pipeline.networks.style.decoder import style_layers
from pipeline.networks.style.trained import Model
from pipeline.records.files import whole


def directions(model: Model, count: int, draws: int = 16_384) -> Tensor:
    """The principal components of w over the prior, scaled by their standard deviations.

    (count, latent), by descending length; signs make the entry of largest magnitude positive.
    """
    w = model.styles(model.prior(draws, seed=0)).double()
    _, values, vectors = torch.linalg.svd(w - w.mean(0), full_matrices=False)
    vectors = vectors[:count]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    scale = values[:count, None] / (draws - 1) ** 0.5
    return (vectors * largest.sign() * scale).to(model.mean_style)


def edit(
    model: Model,
    faces: list[Tensor],
    axes: Tensor,
    moves: list[float],
    sides: list[int],
    psi: float,
) -> Tensor:
    """Styles (1, layers, latent): moves the first face along `axes` by `moves` standard deviations,
    takes the second face's styles at the resolutions `sides`, and truncates by `psi`."""
    first, second = faces
    w = first + torch.tensor(moves).to(axes) @ axes
    rows = [4 << (row // 2) for row in range(style_layers(model.resolution))]
    w = torch.stack([second[0] if side in sides else w[0] for side in rows])[None]
    return model.mean_style + psi * (w - model.mean_style)


class Named:
    """Named directions of w, in a JSON file {name: [latent numbers]}. ModelError."""

    def __init__(self, path: Path, latent: int):
        self.path, self.latent = path, latent
        self.all: dict[str, list[float]] = json.loads(path.read_text()) if path.exists() else {}
        if any(len(direction) != latent for direction in self.all.values()):
            raise ModelError(f"{path}: a direction does not have {latent} numbers")

    def keep(self, name: str, direction: Tensor) -> None:
        self.all[name] = direction.tolist()
        with whole(self.path) as beside:
            beside.write_text(json.dumps(self.all, indent=1) + "\n")

    def axes(self, like: Tensor) -> Tensor:
        """(count, latent)"""
        rows = [torch.tensor(direction).to(like) for direction in self.all.values()]
        return torch.stack(rows) if rows else like[:0]
