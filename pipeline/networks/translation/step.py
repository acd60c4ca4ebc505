"""Translation networks for objectives and evaluations. Images are in [-1, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.networks.family import autocast
from pipeline.networks.translation.perceptual import PerceptualError

if TYPE_CHECKING:
    from pipeline.networks.translation.autoencoder import Autoencoder


class Step:
    """The networks, with `perceptual` as reconstruction error if it is given."""

    def __init__(
        self,
        networks: Autoencoder,
        precision: str,
        perceptual: PerceptualError | None = None,
        x: Tensor | None = None,
    ):
        self.networks, self.precision, self.x = networks, precision, x
        self.resolution, self.device = networks.shape.resolution, networks.device
        self.parts = networks.shape.parts
        self.perceptual = perceptual
        self.of_x: list[Tensor] | None = None
        if perceptual is not None:
            self.reconstruction_error = self._perceptual_error

    def on(self, x: Tensor, labels: Tensor | None) -> Step:
        """The networks for a batch of images x; its features are computed once."""
        return Step(self.networks, self.precision, self.perceptual, x)

    def prepare(self, x: Tensor) -> Tensor:
        """Images as they are."""
        return x

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and logvar of q(z|x), each (B, latent): the class code, then the content code."""
        with autocast(self.device, self.precision):
            return self.networks.encoder((x + 1) / 2)

    def decode(self, z: Tensor) -> Tensor:
        """The images of z."""
        with autocast(self.device, self.precision):
            return self.networks.decoder(z) * 2 - 1

    def generate(self, count: int) -> Tensor:
        """Images of fresh draws of the prior."""
        return self.decode(self.networks.prior(count))

    def _perceptual_error(self, x: Tensor, y: Tensor) -> Tensor:
        """N P(x, y), (B,), with N values in an image, which the default s divides out."""
        with autocast(self.device, self.precision):
            of_x = self._features_of_batch() if x is self.x else self._features(x)
            return x[0].numel() * self.perceptual(of_x, self._features(y))

    def _features(self, x: Tensor) -> list[Tensor]:
        return self.perceptual.features((x + 1) / 2)

    def _features_of_batch(self) -> list[Tensor]:
        if self.of_x is None:
            with torch.no_grad():
                self.of_x = self._features(self.x)
        return self.of_x
