"""Sources of latents: image files, an array of latents, or draws of the prior."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataprep.images.decode import BadImageError, decode
from dataprep.images.names import rule_of
from dataprep.images.pyramid import pyramid, squared
from pipeline.data.loaders import to_float
from pipeline.networks.style.trained import Model

BATCH = 16  # images per forward pass


class SourceError(Exception):
    """An input that cannot be read; the message names it."""


def in_batches(function: Callable[[Any], Tensor], x: Tensor | list[Path]) -> Iterator[Tensor]:
    """Applies `function` to batches of up to BATCH of `x`."""
    for first in range(0, len(x), BATCH):
        yield function(x[first : first + BATCH])


def image_files(paths: list[Path]) -> list[Path]:
    """`paths`, with each folder replaced by its images, sorted by name, by the rules of
    dataprep/shard.py; prints the number of other files to stderr. SourceError."""
    found = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [p for p in sorted(path.iterdir()) if rule_of(p.name) != "hidden"]
        images = [p for p in inside if rule_of(p.name) is None and not p.is_dir()]
        others = [p for p in inside if rule_of(p.name) is not None or p.is_dir()]
        if not images:
            raise SourceError(f"{path} holds no images")
        if others:
            print(f"{path}: {len(others)} are not images ({others[0].name})", file=sys.stderr)
        found += images
    return found


def read_images(paths: list[Path], resolution: int) -> Tensor:
    """Image files as (N, 3, R, R) in [-1, 1]: the central square, scaled. SourceError."""
    return to_float(
        torch.from_numpy(np.stack([_read(p, resolution) for p in paths])), torch.device("cpu")
    )


def _read(path: Path, resolution: int) -> np.ndarray:
    try:
        return read_image(path.read_bytes(), resolution)
    except (OSError, BadImageError) as error:
        raise SourceError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def read_image(content: bytes, resolution: int) -> np.ndarray:
    """The central square of an image file, upright, at the resolution: uint8 (R, R, 3).

    Equals the pixels of a dataset with this --max-resolution. A smaller image is enlarged, where
    dataprep/shard.py would reject it. BadImageError.
    """
    pixels = decode(content)
    square = squared(pixels, "centre")
    if len(square) < resolution:
        size = (resolution, resolution)
        return np.asarray(Image.fromarray(square).resize(size, Image.Resampling.BICUBIC))
    return next(pyramid(pixels, resolution))[1]


def read_latents(path: Path, model: Model) -> Tensor:
    """An array file (N, latent) of z. SourceError."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "not an .npy file of numbers"
        raise SourceError(f"{path}: {reason}") from None
    shape = getattr(array, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] != model.latent or not shape[0]:
        raise SourceError(f"{path} must hold latents (N, {model.latent}), not {shape}")
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise SourceError(f"{path} must hold finite floating-point numbers")
    return torch.from_numpy(array)


def find_z(
    model: Any,
    images: list[Path],
    latents: Path | None,
    count: int,
    seed: int,
    label: Tensor | None = None,
) -> Tensor:
    """z (N, latent): mu of the images with the class `label` (1,), else the latents of the file,
    else `count` draws of the prior."""

    def encoded(files: list[Path]) -> Tensor:
        said = {} if label is None else {"labels": label.expand(len(files))}
        return model.encode(read_images(files, model.resolution), **said)[0]

    if images:
        return torch.cat(list(in_batches(encoded, image_files(images))))
    return read_latents(latents, model) if latents else model.prior(count, seed)


def find_w(model: Model, images: list[Path], latents: Path | None, count: int, seed: int) -> Tensor:
    """w (N, latent), from the same inputs as `find_z`."""
    if images:
        files = image_files(images)
        return torch.cat(
            list(in_batches(lambda p: model.invert(read_images(p, model.resolution)), files))
        )
    return model.styles(find_z(model, images, latents, count, seed))
