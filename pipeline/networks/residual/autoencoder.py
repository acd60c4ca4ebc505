"""The residual networks: encoder and decoder as one module to train, average, save and sample."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.networks.family import Alpha, Images
from pipeline.networks.residual import population
from pipeline.networks.residual.decoder import Decoder
from pipeline.networks.residual.encoder import Encoder
from pipeline.networks.residual.layers import inside
from pipeline.networks.residual.shape import Shape
from pipeline.networks.residual.step import Measured, Step
from pipeline.networks.residual.trained import Model
from pipeline.objective import draw

SETS = {"encoder": "encoder", "decoder_of_codes": "decoder", "decoder_of_prior": "decoder"}
"""Sets of population statistics, and the network of each."""


class Autoencoder(nn.Module):
    """Encoder and decoder, and with `shape.target_every` a second decoder that is not trained."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.encoder = Encoder(shape)
        self.decoder = Decoder(shape)
        self.target_decoder = None
        if shape.target_every:
            self.target_decoder = copy.deepcopy(self.decoder).requires_grad_(False)
        self.DERIVED = tuple(
            f"{name}.{key}"
            for name, network in SETS.items()
            for key in population.names(getattr(self, network))
        )

    @property
    def device(self) -> torch.device:
        return self.encoder.fc.weight.device

    def initialize(self, seed: int) -> None:
        """Draws the weights with PyTorch's defaults; the second decoder is a copy of the first."""
        torch.manual_seed(seed)
        for module in (*self.encoder.modules(), *self.decoder.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
        if self.target_decoder is not None:
            self.target_decoder.load_state_dict(self.decoder.state_dict())

    def parameters_at(self, resolution: int) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """All parameters of both networks."""
        return list(self.encoder.parameters()), list(self.decoder.parameters())

    def training_at(self, resolution: int, alpha: Alpha, precision: str) -> Step:
        """The networks for training: batch norm uses batch statistics."""
        return Step(self, precision)

    def stepped(self, images: int, batch: int) -> None:
        """Copies the decoder to the second one when `images` crosses a multiple of target_every."""
        every = self.shape.target_every
        if every and images // every > (images - batch) // every:
            self.target_decoder.load_state_dict(self.decoder.state_dict())

    def at(
        self, resolution: int, alpha: float, derived: dict[str, Tensor], precision: str = "fp32"
    ) -> Measured:
        """The networks for evaluation: batch norm uses the population statistics in `derived`."""
        sets = {name: {} for name in SETS}
        for key, tensor in derived.items():
            name, _, rest = key.partition(".")
            sets[name][rest] = tensor
        return Measured(self, precision, sets)

    def derived(self, images: Images) -> dict[str, Tensor]:
        """The population statistics of batch norm."""
        draws = []
        with torch.no_grad(), torch.random.fork_rng(self._cuda()):
            torch.manual_seed(0)
            with population.gathered(self.encoder) as encoder:
                for x, labels in images(population.BATCHES, population.SIZE):
                    codes = draw(*self.encoder(inside(x, self.shape.image_channels), labels))
                    draws.append((codes, self.prior(len(x)), labels))
            with population.gathered(self.decoder) as of_codes:
                for codes, _, labels in draws:
                    self.decoder(codes, labels)
            with population.gathered(self.decoder) as of_prior:
                for _, z, labels in draws:
                    self.decoder(z, labels)
        sets = zip(SETS, (encoder, of_codes, of_prior), strict=True)
        return {f"{name}.{key}": tensor for name, found in sets for key, tensor in found.items()}

    def trained(self, derived: dict[str, Tensor], about: dict[str, Any], precision: str) -> Model:
        return Model(self, derived, about, precision)

    def prior(self, count: int) -> Tensor:
        """Draws of z, (count, latent)."""
        weight = self.encoder.fc.weight
        return torch.randn(count, self.shape.latent, device=weight.device, dtype=weight.dtype)

    def _cuda(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []
