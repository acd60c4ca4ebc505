"""Encoder and decoder together: what is trained, averaged, saved and sampled."""

import torch
from torch import Tensor, nn

from pipeline.networks.style.decoder import Decoder, style_layers
from pipeline.networks.style.encoder import Encoder
from pipeline.networks.style.layers import autocast
from pipeline.networks.style.shape import Shape


class Autoencoder(nn.Module):
    """The pair of networks; images (B, 3, R, R) in [-1, 1], latents (B, latent)."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.encoder = Encoder(shape)
        self.decoder = Decoder(shape)

    @property
    def device(self) -> torch.device:
        return self.decoder.const.device

    def prior(self, count: int) -> Tensor:
        """Draws of z, (count, latent)."""
        dtype = self.decoder.const.dtype
        return torch.randn(count, self.shape.latent, device=self.device, dtype=dtype)

    def mean_style(self, draws: int = 16_384) -> Tensor:
        """The mean of w over the prior, (latent,), to a hundredth of its deviation.

        The published code keeps a running mean beside the training; it mixes in the styles of
        posterior samples and never reaches the averaged networks (spec A.9). A mean over fresh
        draws is a function of the weights, and needs no state.
        """
        with torch.no_grad(), torch.random.fork_rng(self._cuda()):
            torch.manual_seed(0)
            return self.decoder.styles(self.prior(draws)).mean(dim=0)

    def _cuda(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []


class Grown:
    """An autoencoder grown to a resolution and alpha, as a `pipeline.objective.Model`."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        resolution: int,
        alpha: float = 1.0,
        precision: str = "fp32",
        mixing: float = 0.0,
    ):
        self.autoencoder, self.resolution, self.alpha = autoencoder, resolution, alpha
        self.precision, self.mixing = precision, mixing

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
            if torch.rand(()) >= self.mixing:
                return decoder(z, self.resolution, self.alpha)
            w = torch.stack([decoder.styles(z), decoder.styles(self.autoencoder.prior(count))])
            layers = style_layers(self.resolution)
            cut = torch.randint(1, layers + 1, ())  # equal to `layers`, nothing is mixed
            fine = (torch.arange(layers) >= cut).to(w.device)
            w = torch.where(fine[:, None], w[1, :, None], w[0, :, None])
            return decoder.synthesize(w, self.resolution, self.alpha)

    def _autocast(self):
        return autocast(self.autoencoder.device, self.precision)
