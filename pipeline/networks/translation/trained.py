"""A trained translation model: combines the class of one image with the content of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.networks import family
from pipeline.networks.translation.step import Step

if TYPE_CHECKING:
    from pipeline.networks.translation.autoencoder import Autoencoder


class Model:
    """Frozen encoders and decoder; `pipeline.load` creates it.

    Images are (B, 3, R, R) in [-1, 1]; z, mu and logvar are (B, latent), the class code before the
    content code.
    """

    def __init__(self, networks: Autoencoder, about: dict[str, Any], precision: str):
        self.networks, self.about = networks, about
        self.precision, self.device = precision, networks.device
        self.resolution, self.alpha = networks.shape.resolution, 1.0
        self.measured = Step(networks, precision)

    def at(self, resolution: int, alpha: float | None = None) -> Model:
        """The model itself: it has one resolution and no fade-in. ModelError."""
        family.check_fixed(resolution, alpha, self.resolution)
        return self

    @property
    def resolutions(self) -> list[int]:
        return self.networks.shape.resolutions

    @property
    def latent(self) -> int:
        """Length of z, the sum of both codes."""
        return self.networks.shape.latent

    @property
    def parts(self) -> dict[str, slice]:
        """The slices of the class code and the content code in z."""
        return self.networks.shape.parts

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and logvar of q(z|x)."""
        family.check_images(x, self.resolution)
        return self.measured.encode(self._here(x))

    def decode(self, z: Tensor) -> Tensor:
        """Images of z."""
        family.check_latents(z, self.latent)
        return self.measured.decode(self._here(z))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images decoded from mu of x."""
        return self.decode(self.encode(x)[0])

    def translate(self, class_images: Tensor, content_images: Tensor) -> Tensor:
        """Images with the class of one image and the content of the other, pair by pair."""
        of_class, of_content = self.parts["class"], self.parts["content"]
        codes = self.encode(class_images)[0][:, of_class]
        return self.decode(torch.cat([codes, self.encode(content_images)[0][:, of_content]], dim=1))

    def prior(self, count: int, seed: int | None = None) -> Tensor:
        """Draws of z, (count, latent); for a seed equal on all devices and for every count."""
        return self._here(family.prior(count, self.latent, seed))

    def from_prior(self, z: Tensor) -> Tensor:
        """Images of draws of the prior; the same as `decode`."""
        return self.decode(z)

    def sample(self, count: int, seed: int | None = None) -> Tensor:
        """Images of draws of the prior."""
        return self.decode(self.prior(count, seed))

    def _here(self, x: Tensor) -> Tensor:
        return x.to(self.networks.decoder.linears[0].get_parameter("weight"))
