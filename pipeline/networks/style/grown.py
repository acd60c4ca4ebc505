"""Style networks at one resolution and alpha, for objectives and evaluations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.networks.family import Alpha, autocast
from pipeline.networks.style.decoder import style_layers
from pipeline.networks.style.layers import blend, fades

if TYPE_CHECKING:
    from pipeline.networks.style.autoencoder import Autoencoder


class Grown:
    """An autoencoder grown to a resolution and alpha, as a `pipeline.objective.Model`."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        resolution: int,
        alpha: Alpha = 1.0,
        precision: str = "fp32",
        mixing: float = 0.0,
    ):
        self.autoencoder, self.resolution, self.alpha = autoencoder, resolution, alpha
        self.precision, self.mixing, self.device = precision, mixing, autoencoder.device

    def on(self, x: Tensor, labels: Tensor | None) -> Grown:
        """Returns self: the networks do not depend on the batch."""
        return self

    def prepare(self, x: Tensor) -> Tensor:
        """Blends real images with their lower resolution during the fade-in (spec C.3)."""
        return blend(_halved(x), x, self.alpha) if fades(self.alpha) else x

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and logvar of q(z|x), each (B, latent)."""
        with self._autocast():
            return self.autoencoder.encoder(x, self.alpha)

    def decode(self, z: Tensor) -> Tensor:
        """The image of z, with fresh noise."""
        with self._autocast():
            return self.autoencoder.decoder(z, self.resolution, self.alpha)

    def generate(self, count: int) -> Tensor:
        """Images of fresh draws of the prior; styles are mixed with probability `mixing`."""
        decoder = self.autoencoder.decoder
        with self._autocast():
            z = self.autoencoder.prior(count)
            if self.mixing == 0:
                return decoder(z, self.resolution, self.alpha)
            other = decoder.styles(self.autoencoder.prior(count))
            # Drawn where it is used: a GPU does not wait for the host. cut = layers mixes nothing.
            layers = style_layers(self.resolution)
            cut = torch.randint(1, layers + 1, (), device=z.device)
            cut = cut.where(torch.rand((), device=z.device) < self.mixing, layers)
            return decoder.mixed(decoder.styles(z), other, cut, self.resolution, self.alpha)

    def _autocast(self):
        return autocast(self.device, self.precision)


def _halved(x: Tensor) -> Tensor:
    """Each 2x2 block of pixels replaced by its mean: the image at half the resolution."""
    return F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="nearest")
