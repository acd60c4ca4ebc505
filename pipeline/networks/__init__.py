"""The families of networks, told apart by `shape.kind`; a family is added to both lines here."""

from pipeline.networks.family import Networks
from pipeline.networks.style.autoencoder import Autoencoder
from pipeline.networks.style.shape import Shape as StyleShape

Shape = StyleShape


def build(shape: Shape) -> Networks:
    """Networks of `shape`, at their start."""
    return Autoencoder(shape)
