"""The configuration of the translation networks."""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Shape:
    """The defaults are LORD's networks at 64x64, with a variance for each code (spec C.2)."""

    WHOLE_BATCHES: ClassVar[str | None] = None
    classes: ClassVar[int] = 0

    kind: Literal["translation"] = "translation"
    """The family of networks."""
    resolution: Count = 64
    """Side of the images."""
    class_latent: Count = 256
    """Length of the class code, which modulates the decoder's norms."""
    content_latent: Count = 128
    """Length of the content code, the input of the decoder."""
    encoder_channels: Annotated[list[Count], Field(min_length=2)] = Field(
        default_factory=lambda: [64, 128, 256, 256, 256]
    )
    """Widths of each encoder; the side is halved before all but the first."""
    hidden: Count = 256
    """Width of the linear layers after the convolutions."""
    decoder_channels: Annotated[int, Field(ge=8, multiple_of=8)] = 256
    """Width of the decoder's feature maps."""
    scale_from_one: bool = False
    """Add 1 to a channel's scale from the class code; LORD uses the scale itself."""
    error: Literal["perceptual", "squared"] = "perceptual"
    """Reconstruction error in VGG16's feature space (spec C.3), or squared error of pixels."""
    vgg16: str | None = None
    """VGG16's weights, a safetensors file, needed for training with the perceptual error."""

    @model_validator(mode="after")
    def _halves(self):
        if self.resolution % 2**self.halvings:
            raise ValueError(f"resolution {self.resolution} cannot be halved {self.halvings} times")
        return self

    @property
    def halvings(self) -> int:
        return len(self.encoder_channels) - 1

    @property
    def inner(self) -> int:
        """Side of the innermost feature maps."""
        return self.resolution // 2**self.halvings

    @property
    def latent(self) -> int:
        """Length of the class and the content code together."""
        return self.class_latent + self.content_latent

    @property
    def parts(self) -> dict[str, slice]:
        """The slice of each code in the latent."""
        return {
            "class": slice(0, self.class_latent),
            "content": slice(self.class_latent, self.latent),
        }

    @property
    def resolutions(self) -> list[int]:
        """The one resolution of these networks."""
        return [self.resolution]
