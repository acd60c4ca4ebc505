"""Converts the published residual checkpoints, {"epoch", "model"}, to ours and back (spec S-F.1).

Our names are the published ones. A published file also has running statistics, which average over
real images, reconstructions and samples (spec A.5). A converted checkpoint uses them as all sets of
population statistics, and checkpoint.json says so.
"""

import re
from typing import Any

import torch
from torch import Tensor

from pipeline.networks.residual.autoencoder import SETS, Autoencoder
from pipeline.networks.residual.shape import Shape

RUNNING = {"mean": "running_mean", "variance": "running_var"}
COUNT = "num_batches_tracked"
EPOCH = 50_000  # images between the published bootstrap form's updates of the second decoder


class LayoutError(Exception):
    """Tensors that are not a published model's; the message names found and missing tensors."""


def shape_of(tensors: dict[str, Tensor]) -> Shape:
    """The shape of a published model; LayoutError."""
    try:
        first = tensors["encoder.main.0.weight"]
        blocks = {
            int(match[1]): tensor.shape[0]
            for name, tensor in tensors.items()
            if (match := re.fullmatch(r"encoder\.main\.res_in_(\d+)\.conv1\.weight", name))
        }
        sides = sorted(blocks, reverse=True)
        latent = tensors["encoder.fc.weight"].shape[0] // 2
        shape = Shape(
            resolution=2 * sides[0],
            image_channels=first.shape[1],  # type: ignore[arg-type]  # validated there
            channels=[first.shape[0], *(blocks[side] for side in sides[:-1])],
            latent=latent,
            classes=tensors["decoder.fc.0.weight"].shape[1] - latent,
            target_every=EPOCH if "target_decoder.fc.0.weight" in tensors else 0,
        )
    except (KeyError, IndexError, ValueError) as error:
        raise LayoutError(f"it has no residual encoder and decoder: {error}") from None
    expected = {n: tuple(t.shape) for n, t in _empty(shape).state_dict().items()}
    for name, size in expected.items():
        if name not in tensors or tuple(tensors[name].shape) != size:
            found = tuple(tensors[name].shape) if name in tensors else "missing"
            raise LayoutError(f"{name} should be {size}, but is {found}")
    return shape


def from_published(tensors: dict[str, Tensor], shape: Shape) -> tuple[dict, dict, dict[str, Any]]:
    """Weights, statistics by our names, and the batch counts for `to_published`; LayoutError."""
    networks = _empty(shape)
    weights = {name: tensors[name] for name in networks.state_dict()}
    derived, counts = {}, {}
    for name in networks.DERIVED:
        part, _, rest = name.partition(".")
        layer, _, kind = rest.rpartition(".")
        theirs = f"{SETS[part]}.{layer}"
        try:
            derived[name] = tensors[f"{theirs}.{RUNNING[kind]}"].clone()
            counts[SETS[part]] = int(tensors[f"{theirs}.{COUNT}"])
        except KeyError as error:
            raise LayoutError(f"there is no {error.args[0]}") from None
    return weights, derived, counts


def to_published(
    weights: dict[str, Tensor], derived: dict[str, Tensor], counts: dict[str, int]
) -> dict[str, Tensor]:
    """A published `model`; its decoder has the statistics of draws of the prior.

    `counts` are the numbers of batches in each network's statistics.
    """
    found = dict(weights)
    for name, value in derived.items():
        part, _, rest = name.partition(".")
        if part == "decoder_of_codes":
            continue
        layer, _, kind = rest.rpartition(".")
        theirs = f"{SETS[part]}.{layer}"
        found[f"{theirs}.{RUNNING[kind]}"] = value
        found[f"{theirs}.{COUNT}"] = torch.tensor(counts[SETS[part]])
        if SETS[part] == "decoder" and "target_decoder.fc.0.weight" in weights:
            for ending in (RUNNING[kind], COUNT):
                found[f"target_{theirs}.{ending}"] = found[f"{theirs}.{ending}"].clone()
    return found


def _empty(shape: Shape) -> Autoencoder:
    with torch.device("meta"):
        return Autoencoder(shape)
