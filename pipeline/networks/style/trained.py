"""A trained style model: encodes, decodes, samples, and edits styles."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.networks import family
from pipeline.networks.family import ModelError, autocast

if TYPE_CHECKING:
    from pipeline.networks.style.autoencoder import Autoencoder
    from pipeline.networks.style.grown import Grown

NOISE = ("random", "fixed", "off")


class Model:
    """Frozen networks at one resolution and alpha; `pipeline.load` and `at` create it.

    Images are (B, 3, R, R) in [-1, 1]; outputs are not clamped. z, w, mu and logvar are
    (B, latent), w also (B, layers, latent) with a row per style. Inputs may be on any device and
    require gradients.

    `noise` is "random" (new for each image, from torch's generator), "fixed" (one constant map per
    style, the same for all images) or "off" (the published deterministic term, spec A.8). `psi`
    below 1 truncates w towards its mean over the prior, in all rows (spec A.9).
    """

    def __init__(
        self, networks: Autoencoder, mean_style: Tensor, about: dict[str, Any], precision: str
    ):
        self.networks, self.mean_style, self.about = networks, mean_style, about
        self.precision, self.device = precision, networks.device
        self.resolution, self.alpha = about["resolution"], about["alpha"]

    def at(self, resolution: int, alpha: float | None = None) -> Model:
        """The same networks at another resolution; `alpha` as for `pipeline.load`. ModelError.

        The layers to and from RGB of a lower resolution were last trained at that resolution and
        the next; the other layers have trained further since.
        """
        if resolution not in self.resolutions:
            raise ModelError(
                f"resolution {resolution} is not one of {', '.join(map(str, self.resolutions))}, "
                f"the trained ones"
            )
        largest = resolution == self.about["resolution"]
        other = Model(self.networks, self.mean_style, self.about, self.precision)
        other.resolution = resolution
        other.alpha = (self.about["alpha"] if largest else 1.0) if alpha is None else alpha
        if not 0 <= other.alpha <= 1:
            raise ModelError(f"alpha {alpha} is not between 0 and 1")
        return other

    @property
    def resolutions(self) -> list[int]:
        """The trained resolutions, ascending."""
        return [r for r in self.networks.shape.resolutions if r <= self.about["resolution"]]

    @property
    def measured(self) -> Grown:
        """The networks for evaluation; ModelError for ALAE's, which have no posterior."""
        if self.is_alae:
            raise ModelError("ALAE's encoder gives no posterior and cannot be evaluated")
        return self.networks.at(self.resolution, self.alpha, precision=self.precision)

    @property
    def latent(self) -> int:
        """Length of z and of w."""
        return self.networks.shape.latent

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and logvar of q(z|x)."""
        if self.is_alae:
            raise ModelError("ALAE's encoder gives w, not a posterior of z: use invert(x)")
        with self._autocast():
            return self.networks.encoder(self._images(x), self.alpha)

    def invert(self, x: Tensor) -> Tensor:
        """The w of images: the w of mu; ALAE's encoder outputs w itself (spec A.11)."""
        if self.is_alae:
            with self._autocast():
                return self.networks.encoder.features(self._images(x), self.alpha)
        return self.styles(self.encode(x)[0])

    def styles(self, z: Tensor) -> Tensor:
        """z to w."""
        family.check_latents(z, self.latent)
        with self._autocast():
            return self.networks.decoder.styles(self._here(z))

    def synthesize(
        self, w: Tensor, noise: str = "random", psi: float = 1.0, seed: int | None = None
    ) -> Tensor:
        """Images of w; with a seed, the random noise of image i depends on the seed and i alone."""
        decoder, w = self.networks.decoder, self._here(w)
        if psi != 1:
            w = self.mean_style + psi * (w - self.mean_style)
        if noise not in NOISE:
            raise ModelError(f"noise {noise!r} is not one of {', '.join(NOISE)}")
        given = decoder.noise_maps(self.resolution) if noise == "fixed" else noise == "random"
        if noise == "random" and seed is not None:
            given = self._seeded_noise(len(w), seed)
        with self._autocast():
            return decoder.synthesize(w, self.resolution, self.alpha, given)

    def decode(
        self, z: Tensor, noise: str = "random", psi: float = 1.0, seed: int | None = None
    ) -> Tensor:
        """Images of z; `seed` as in `synthesize`."""
        return self.synthesize(self.styles(z), noise, psi, seed)

    def from_prior(self, z: Tensor, noise: str = "random", psi: float = 1.0) -> Tensor:
        """Images of draws of the prior; the same as `decode`."""
        return self.decode(z, noise, psi)

    def reconstruct(self, x: Tensor, noise: str = "random", psi: float = 1.0) -> Tensor:
        """Images decoded from mu of x."""
        return self.synthesize(self.invert(x), noise, psi)

    def prior(self, count: int, seed: int | None = None) -> Tensor:
        """Draws of z, (count, latent); for a seed equal on all devices and for every count."""
        return self._here(family.prior(count, self.latent, seed))

    def sample(
        self, count: int, seed: int | None = None, noise: str = "random", psi: float = 1.0
    ) -> Tensor:
        """Images of draws of the prior. A seed repeats them, noise included, for every count."""
        return self.decode(self.prior(count, seed), noise, psi, seed)

    @property
    def is_alae(self) -> bool:
        return self.about.get("converted", {}).get("kind") == "alae"

    def _seeded_noise(self, count: int, seed: int) -> list[Tensor]:
        """Noise maps (count, 1, r, r), one per style; those of image i follow from (seed, i)."""
        sides = [len(m[0, 0]) for m in self.networks.decoder.noise_maps(self.resolution)]
        images = []
        for i in range(count):
            digest = hashlib.blake2b(f"{seed} noise {i}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
            images.append([torch.randn(1, side, side, generator=generator) for side in sides])
        return [torch.stack(maps).to(self.mean_style) for maps in zip(*images, strict=True)]

    def _images(self, x: Tensor) -> Tensor:
        family.check_images(x, self.resolution)
        return self._here(x)

    def _here(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.mean_style.dtype)

    def _autocast(self):
        return autocast(self.device, "bf16" if self.precision == "bf16" else "fp32")


def styled(model: Any) -> Model:
    """Returns `model` if it is of this family. ModelError."""
    if not isinstance(model, Model):
        kind = model.networks.shape.kind
        raise ModelError(f"this needs style networks; the model has {kind} networks")
    return model
