"""The families of networks, chosen by `shape.kind`; add a family to both lists here."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from pipeline.networks.residual.autoencoder import Autoencoder as Residual
from pipeline.networks.residual.shape import Shape as ResidualShape
from pipeline.networks.style.autoencoder import Autoencoder as Style
from pipeline.networks.style.shape import Shape as StyleShape
from pipeline.networks.translation.autoencoder import Autoencoder as Translation
from pipeline.networks.translation.shape import Shape as TranslationShape


def _kind(shape: Any) -> str:
    return shape.get("kind", "style") if isinstance(shape, dict) else shape.kind


Shape = Annotated[
    Annotated[StyleShape, Tag("style")]
    | Annotated[ResidualShape, Tag("residual")]
    | Annotated[TranslationShape, Tag("translation")],
    Discriminator(_kind),
]
FAMILIES = {"style": Style, "residual": Residual, "translation": Translation}


def build(shape: Shape) -> Any:
    """The `family.Networks` of `shape`, a module with initial weights."""
    return FAMILIES[shape.kind](shape)
