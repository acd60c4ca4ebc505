"""The configuration of the residual networks."""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Shape:
    """Sizes and variants; the defaults are the published CIFAR-10 networks (spec A.1)."""

    WHOLE_BATCHES: ClassVar[str | None] = (
        "batch norm uses the statistics of the images that are computed together, and splitting a "
        "batch changes the algorithm"
    )

    kind: Literal["residual"] = "residual"
    """The family of networks."""
    resolution: Count = 32
    """Side of the images."""
    image_channels: Literal[1, 3] = 3
    """1 for grey networks: their input is the mean of the channels, their output has three equal
    channels. The default of objective.s counts all three."""
    channels: Annotated[list[Count], Field(min_length=1)] = Field(
        default_factory=lambda: [64, 128, 256]
    )
    """Widths, from the image inwards; the side is halved after each."""
    latent: Count = 128
    """Length of z."""
    classes: Annotated[int, Field(ge=0)] = 0
    """Number of classes that condition both networks, one-hot; 0 is unconditional (spec B)."""
    target_every: Annotated[int, Field(ge=0)] = 0
    """Bootstrap form (spec E): images between copies of the decoder to a second decoder, which
    computes x_ff. 0 has no second decoder. The published value is 50,000, one epoch."""
    augment: bool = False
    """Shift images and erase rectangles in the encoder's input, real and fake (spec F)."""

    @model_validator(mode="after")
    def _halves(self):
        if self.resolution % self.inner:
            raise ValueError(
                f"resolution {self.resolution} cannot be halved {len(self.channels)} times"
            )
        return self

    @property
    def inner(self) -> int:
        """Ratio of the image's side to that of the innermost feature maps."""
        return 2 ** len(self.channels)

    @property
    def features(self) -> tuple[int, int, int]:
        """Channels, height and width of the innermost feature maps."""
        side = self.resolution // self.inner
        return self.channels[-1], side, side

    @property
    def resolutions(self) -> list[int]:
        """The one resolution of these networks."""
        return [self.resolution]


WIDE = [64, 128, 256, 512, 512]
PUBLISHED = {
    "cifar10": Shape(),
    "svhn": Shape(),
    "mnist": Shape(resolution=28, image_channels=1, channels=[64, 128], latent=32),
    "fmnist": Shape(resolution=28, image_channels=1, channels=[64, 128], latent=32),
    "celeb128": Shape(resolution=128, channels=WIDE, latent=128),
    "celeb256": Shape(resolution=256, channels=[*WIDE, 512], latent=256),
    "celeb1024": Shape(resolution=1024, channels=[16, 32, *WIDE, 512], latent=256),
}
"""The published sizes (spec S-F.1)."""
