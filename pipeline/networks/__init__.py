"""The families of networks, told apart by `shape.kind`; a family is added to both lines here."""

from typing import Any

from pipeline.networks.style.autoencoder import Autoencoder
from pipeline.networks.style.shape import Shape as StyleShape

Shape = StyleShape


def build(shape: Shape) -> Any:
    """The `family.Networks` of `shape`, a module with initial weights."""
    return Autoencoder(shape)
