"""The style networks: encoder and decoder as one module to train, average, save and sample."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.networks.family import Alpha, Images
from pipeline.networks.style.decoder import Decoder
from pipeline.networks.style.encoder import Encoder
from pipeline.networks.style.grown import Grown
from pipeline.networks.style.layers import initialize
from pipeline.networks.style.shape import Shape
from pipeline.networks.style.trained import Model


class Autoencoder(nn.Module):
    """The pair of networks; images (B, 3, R, R) in [-1, 1], latents (B, latent)."""

    DERIVED = ("mean_style",)

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.encoder = Encoder(shape)
        self.decoder = Decoder(shape)

    @property
    def device(self) -> torch.device:
        return self.decoder.const.device

    def initialize(self, seed: int) -> None:
        initialize(self, seed)

    def parameters_at(self, resolution: int) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters in use at `resolution`, including those of the fade-in."""
        return self.encoder.active(resolution), self.decoder.active(resolution)

    def training_at(self, resolution: int, alpha: Alpha, precision: str) -> Grown:
        """The networks for training: samples mix styles."""
        return Grown(self, resolution, alpha, precision, mixing=self.shape.style_mixing)

    def stepped(self, images: int, batch: int) -> None:
        """Does nothing."""

    def at(
        self,
        resolution: int,
        alpha: float = 1.0,
        derived: dict[str, Tensor] | None = None,
        precision: str = "fp32",
    ) -> Grown:
        """The networks for evaluation: samples do not mix styles."""
        return Grown(self, resolution, alpha, precision)

    def derived(self, images: Images | None = None) -> dict[str, Tensor]:
        """The mean of w, for truncation."""
        return {"mean_style": self.mean_style()}

    def trained(self, derived: dict[str, Tensor], about: dict[str, Any], precision: str) -> Model:
        mean_style = derived.get("mean_style")
        if mean_style is None:
            mean_style = self.mean_style()
        return Model(self, mean_style.to(self.decoder.const), about, precision)

    def prior(self, count: int) -> Tensor:
        """Draws of z, (count, latent)."""
        dtype = self.decoder.const.dtype
        return torch.randn(count, self.shape.latent, device=self.device, dtype=dtype)

    def mean_style(self, draws: int = 16_384) -> Tensor:
        """The mean of w over the prior, (latent,); its error is a hundredth of w's deviation.

        The published code keeps a running mean during training; it includes the styles of posterior
        samples and is not kept for the averaged networks (spec A.9). A mean over fresh draws only
        depends on the weights and needs no state.
        """
        with torch.no_grad(), torch.random.fork_rng(self._cuda()):
            torch.manual_seed(0)
            return self.decoder.styles(self.prior(draws)).mean(dim=0)

    def _cuda(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []
