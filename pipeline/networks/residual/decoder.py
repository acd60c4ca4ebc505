"""The residual decoder: latents to images. Names as in the published code (spec S-F.1)."""

from torch import Tensor, nn

from pipeline.networks.residual.encoder import with_labels
from pipeline.networks.residual.layers import Residual
from pipeline.networks.residual.shape import Shape


class Decoder(nn.Module):
    """z (B, latent) and labels (B,) to images (B, C, R, R) about [0, 1]."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        channels, side, _ = shape.features
        inputs = shape.latent + shape.classes
        self.fc = nn.Sequential(nn.Linear(inputs, channels * side * side), nn.ReLU())
        self.main = nn.Sequential()
        named = 4  # the published names count sides from 4, even if the real side differs
        for outputs in reversed(shape.channels):
            self.main.add_module(f"res_in_{named}", Residual(channels, outputs))
            channels, named = outputs, 2 * named
            self.main.add_module(f"up_to_{named}", nn.Upsample(scale_factor=2, mode="nearest"))
        self.main.add_module(f"res_in_{named}", Residual(channels, channels))
        self.main.add_module("predict", nn.Conv2d(channels, shape.image_channels, 5, padding=2))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        y = self.fc(with_labels(z, labels, self.shape.classes))
        return self.main(y.unflatten(1, self.shape.features))
