"""The translation networks: two encoders and a decoder as one module to train, average and save."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.metrics import features
from pipeline.metrics.features import FeaturesError
from pipeline.networks.family import Alpha, Images
from pipeline.networks.translation.layers import Decoder, Encoders
from pipeline.networks.translation.perceptual import PerceptualError
from pipeline.networks.translation.shape import Shape
from pipeline.networks.translation.step import Step
from pipeline.networks.translation.trained import Model


class Autoencoder(nn.Module):
    """The two encoders, trained as one network, and the decoder."""

    DERIVED = ()

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.encoder = Encoders(shape)
        self.decoder = Decoder(shape)
        self.errors: list[PerceptualError] = []  # a list keeps it out of the module's state

    @property
    def device(self) -> torch.device:
        return self._weight().device

    def _weight(self) -> Tensor:
        return self.decoder.linears[0].get_parameter("weight")

    def initialize(self, seed: int) -> None:
        """Draws the weights with PyTorch's defaults."""
        torch.manual_seed(seed)
        for module in (*self.encoder.modules(), *self.decoder.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()

    def parameters_at(self, resolution: int) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """All parameters of both networks."""
        return list(self.encoder.parameters()), list(self.decoder.parameters())

    def training_at(self, resolution: int, alpha: Alpha, precision: str) -> Step:
        """The networks for training; FeaturesError if VGG16 is needed and missing."""
        return Step(self, precision, self.perceptual_error())

    def perceptual_error(self) -> PerceptualError | None:
        """The error of `shape.error`, loaded once; None is the squared error. FeaturesError."""
        if self.shape.error == "squared":
            return None
        if not self.errors:
            if not self.shape.vgg16:
                raise FeaturesError(
                    "the perceptual error needs shape.vgg16, a safetensors file of VGG16; "
                    "shape.error=squared needs none"
                )
            features.find("vgg16", self.shape.vgg16)
            self.errors.append(PerceptualError(Path(self.shape.vgg16)).to(self._weight()))
        return self.errors[0]

    def stepped(self, images: int, batch: int) -> None:
        """Does nothing."""

    def derived(self, images: Images) -> dict[str, Tensor]:
        """No tensors."""
        return {}

    def at(
        self, resolution: int, alpha: float, derived: dict[str, Tensor], precision: str = "fp32"
    ) -> Step:
        """The networks for evaluation."""
        return Step(self, precision)

    def trained(self, derived: dict[str, Tensor], about: dict[str, Any], precision: str) -> Model:
        return Model(self, about, precision)

    def prior(self, count: int) -> Tensor:
        """Draws of z, (count, latent)."""
        weight = self._weight()
        return torch.randn(count, self.shape.latent, device=weight.device, dtype=weight.dtype)
