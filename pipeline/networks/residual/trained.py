"""A trained residual model: encodes, decodes and samples, with labels if it has classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.networks import family
from pipeline.networks.family import ModelError

if TYPE_CHECKING:
    from pipeline.networks.residual.autoencoder import Autoencoder


class Model:
    """Frozen networks; `pipeline.load` creates it.

    Images are (B, 3, R, R) in [-1, 1]; outputs are not clamped. z, mu and logvar are (B, latent).
    labels are (B,) int64, for networks with classes only.
    """

    def __init__(
        self,
        networks: Autoencoder,
        derived: dict[str, Tensor],
        about: dict[str, Any],
        precision: str,
    ):
        if not derived:
            raise ModelError(
                "batch norm needs population statistics, and a checkpoint has them for averaged "
                "weights only: load these (averaged=True)"
            )
        self.networks, self.derived, self.about = networks, derived, about
        self.precision, self.device = precision, networks.device
        self.resolution, self.alpha = networks.shape.resolution, 1.0
        self.measured = networks.at(self.resolution, 1.0, derived, precision)

    def at(self, resolution: int, alpha: float | None = None) -> Model:
        """The model itself: it has one resolution and no fade-in. ModelError."""
        family.check_fixed(resolution, alpha, self.resolution)
        return self

    @property
    def resolutions(self) -> list[int]:
        return self.networks.shape.resolutions

    @property
    def latent(self) -> int:
        """Length of z."""
        return self.networks.shape.latent

    @property
    def classes(self) -> int:
        """Number of classes that condition the networks; 0 is unconditional."""
        return self.networks.shape.classes

    def encode(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """mu and logvar of q(z|x)."""
        family.check_images(x, self.resolution)
        return self._on(labels, len(x), required=True).encode(self._here(x))

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of codes of real images; use `from_prior` for draws of the prior."""
        return self._on(labels, len(z), required=True).decode(self._codes(z))

    def reconstruct(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images decoded from mu of x."""
        return self.decode(self.encode(x, labels)[0], labels)

    def prior(self, count: int, seed: int | None = None) -> Tensor:
        """Draws of z, (count, latent); for a seed equal on all devices and for every count."""
        return self._here(family.prior(count, self.latent, seed))

    def sample(self, count: int, seed: int | None = None, labels: Tensor | None = None) -> Tensor:
        """Images of draws of the prior; without labels of all classes in turn."""
        return self.from_prior(self.prior(count, seed), labels)

    def from_prior(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of draws of the prior."""
        on = self._on(labels, len(z), required=False)
        return on.of_draws(self._codes(z), on.labels)

    def _on(self, labels: Tensor | None, count: int, required: bool):
        if labels is None and (not self.classes or not required):
            return self.measured
        if labels is None or not self.classes:
            needs = f"labels from 0 to {self.classes - 1}" if self.classes else "no labels"
            raise ModelError(f"these networks take {needs}")
        labels = torch.as_tensor(labels, device=self.device)
        if labels.shape != (count,) or labels.min() < 0 or labels.max() >= self.classes:
            raise ModelError(
                f"labels must be {count} numbers from 0 to {self.classes - 1}, not "
                f"{labels.tolist()}"
            )
        return self.measured.on(labels, labels)

    def _codes(self, z: Tensor) -> Tensor:
        family.check_latents(z, self.latent)
        return self._here(z)

    def _here(self, x: Tensor) -> Tensor:
        return x.to(self.networks.encoder.fc.weight)
