"""Residual networks for objectives and evaluations. Images are in [-1, 1]."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.networks.family import autocast, full_precision
from pipeline.networks.residual.augment import augment
from pipeline.networks.residual.layers import inside, outside
from pipeline.networks.residual.population import normalised_by

if TYPE_CHECKING:
    from pipeline.networks.residual.autoencoder import Autoencoder

Sets = dict[str, dict[str, Tensor]]


class Step:
    """The networks for training, on a batch of `count` images and their labels.

    Batch norm normalises each kind of image separately, as in the published step: a concatenation
    of reconstructions and samples passes in parts of `count` (spec A.5). Every part, including
    samples, has the labels of the batch (spec B).
    """

    def __init__(
        self, networks: Autoencoder, precision: str, count: int = 0, labels: Tensor | None = None
    ):
        self.networks, self.precision, self.count, self.labels = networks, precision, count, labels
        self.resolution, self.device = networks.shape.resolution, networks.device
        if networks.target_decoder is not None:
            self.decode_again = lambda z: self._decode(networks.target_decoder, z)

    def on(self, x: Tensor, labels: Tensor | None) -> Step:
        """The networks for a batch of images x and their labels."""
        return Step(self.networks, self.precision, len(x), labels)

    def prepare(self, x: Tensor) -> Tensor:
        """Images as they are."""
        return x

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and logvar of q(z|x), each (B, latent)."""
        x = inside(x, self.networks.shape.image_channels)
        if self.networks.shape.augment:
            x = augment(x)
        with autocast(self.device, self.precision):
            found = [self.networks.encoder(part, self.labels) for part in x.split(self.count)]
        mu, logvar = (full_precision(torch.cat(parts)) for parts in zip(*found))
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """The images of z."""
        return self._decode(self.networks.decoder, z)

    def generate(self, count: int) -> Tensor:
        """Images of fresh draws of the prior."""
        return self.decode(self.networks.prior(count))

    def _decode(self, decoder: nn.Module, z: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            images = torch.cat([decoder(part, self.labels) for part in z.split(self.count)])
        return outside(full_precision(images))


class Measured:
    """The networks for evaluation and use: batch norm uses population statistics.

    Reconstructions use the statistics of codes of real images, samples those of draws of the prior
    (spec A.5). Labels come from `on`; without labels, samples take all classes in turn.
    """

    def __init__(self, networks: Autoencoder, precision: str, sets: Sets):
        self.networks, self.precision = networks, precision
        self.labels: Tensor | None = None
        self.resolution, self.device = networks.shape.resolution, networks.device
        self.encoder = normalised_by(networks.encoder, sets["encoder"])
        self.of_codes = normalised_by(networks.decoder, sets["decoder_of_codes"])
        self.of_prior = normalised_by(networks.decoder, sets["decoder_of_prior"])

    def on(self, x: Tensor, labels: Tensor | None) -> Measured:
        """The networks for a batch of images x and their labels."""
        other = copy.copy(self)
        other.labels = labels
        return other

    def prepare(self, x: Tensor) -> Tensor:
        """Images as they are."""
        return x

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and logvar of q(z|x), each (B, latent)."""
        with autocast(self.device, self.precision):
            mu, logvar = self.encoder(inside(x, self.networks.shape.image_channels), self.labels)
        return full_precision(mu), full_precision(logvar)

    def decode(self, z: Tensor) -> Tensor:
        """The images of codes of real images."""
        return self._decode(self.of_codes, z, self.labels)

    def generate(self, count: int) -> Tensor:
        """Images of fresh draws of the prior."""
        return self.of_draws(self.networks.prior(count), self.labels)

    def of_draws(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The images of draws of the prior."""
        if labels is None and self.networks.shape.classes:
            labels = torch.arange(len(z), device=self.device) % self.networks.shape.classes
        return self._decode(self.of_prior, z, labels)

    def _decode(self, decoder: nn.Module, z: Tensor, labels: Tensor | None) -> Tensor:
        with autocast(self.device, self.precision):
            return outside(full_precision(decoder(z, labels)))
