"""The configuration of the style networks."""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Shape:
    """Widths and depths of encoder and decoder; defaults as published (spec A.1)."""

    WHOLE_BATCHES: ClassVar[str | None] = None
    classes: ClassVar[int] = 0

    kind: Literal["style"] = "style"
    """The family of networks."""
    resolution: Annotated[int, Field(ge=4)] = 256
    """Side of the largest image, a power of two."""
    latent: Annotated[int, Field(ge=1)] = 512
    """Length of z, of w and of the style features."""
    base_channels: Annotated[int, Field(ge=1)] = 64
    """Channels at the largest side; they double at each halving of the side."""
    max_channels: Annotated[int, Field(ge=1)] = 512
    """Maximum number of channels at any side."""
    mapping_layers: Annotated[int, Field(ge=1)] = 8
    """Linear layers from z to w."""
    posterior_layers: Annotated[int, Field(ge=1)] = 3
    """Linear layers from the style features to mu and logvar."""
    max_logvar: float | None = None
    """Upper limit of logvar, against overflow of e^logvar; null as published, no limit (spec J.8).
    The gradient passes through the limit, so the KL reduces logvar again."""

    style_mixing: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Probability that a batch of samples mixes the styles of two draws in training (spec A.9)."""

    @model_validator(mode="after")
    def _power_of_two(self):
        if self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution {self.resolution} is not a power of two")
        return self

    @property
    def resolutions(self) -> list[int]:
        """4, 8, ... up to `resolution`."""
        return [4 << i for i in range((self.resolution // 4).bit_length())]

    def channels(self, side: int) -> int:
        """Channels of the feature maps of `side` pixels."""
        return min(self.max_channels, self.base_channels * self.resolution // side)
