"""Where latents come from: image files, an array of latents, or draws of the prior."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pipeline.data.loaders import to_float
from pipeline.networks.style.trained import Model

BATCH = 16  # images in the networks at once
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class SourceError(Exception):
    """Images or latents that cannot be read; the message names them."""


def in_batches(function: Callable[[Tensor], Tensor], x: Tensor | list[Path]) -> Iterator[Tensor]:
    """`function` of BATCH of `x` at a time."""
    for first in range(0, len(x), BATCH):
        yield function(x[first : first + BATCH])


def image_files(paths: list[Path]) -> list[Path]:
    """`paths`, with the images in a folder in its place, by name. SourceError."""
    found = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise SourceError(f"{path} holds no images")
        found += inside
    return found


def read_images(paths: list[Path], resolution: int) -> Tensor:
    """Image files as (N, 3, R, R) in [-1, 1]: the square in the middle, scaled. SourceError."""
    return to_float(
        torch.from_numpy(np.stack([_read(p, resolution) for p in paths])), torch.device("cpu")
    )


def _read(path: Path, resolution: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return squared(image, resolution)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise SourceError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def squared(image: Image.Image, resolution: int) -> np.ndarray:
    """The square in the middle of an image, upright, at the resolution: uint8 (R, R, 3).

    Where the side is a multiple, each pixel is the mean of its part, as in prepared data.
    """
    image = ImageOps.exif_transpose(image).convert("RGB")
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    image = image.crop((left, top, left + side, top + side))
    if side % resolution == 0:
        return np.asarray(image.reduce(side // resolution))
    method = Image.Resampling.BOX if side > resolution else Image.Resampling.BICUBIC
    return np.asarray(image.resize((resolution, resolution), method))


def read_latents(path: Path, model: Model) -> Tensor:
    """An array file (N, latent) of z. SourceError."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "not an .npy file of numbers"
        raise SourceError(f"{path}: {reason}") from None
    shape = getattr(array, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] != model.latent or not shape[0]:
        raise SourceError(f"{path} should hold latents (N, {model.latent}), not {shape}")
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise SourceError(f"{path} should hold finite floating-point numbers")
    return torch.from_numpy(array)


def find_z(model: Model, images: list[Path], latents: Path | None, count: int, seed: int) -> Tensor:
    """z (N, latent): mu of the images, else the latents of the file, else `count` draws."""
    if images:
        files = image_files(images)
        return torch.cat(
            list(in_batches(lambda p: model.encode(read_images(p, model.resolution))[0], files))
        )
    return read_latents(latents, model) if latents else model.prior(count, seed)


def find_w(model: Model, images: list[Path], latents: Path | None, count: int, seed: int) -> Tensor:
    """w (N, latent) of the same."""
    if images:
        files = image_files(images)
        return torch.cat(
            list(in_batches(lambda p: model.invert(read_images(p, model.resolution)), files))
        )
    return model.styles(find_z(model, images, latents, count, seed))
