"""Names and layouts of the published checkpoints, and ours (spec A.11).

The published names count blocks from the image side in the encoder and from the 4x4 side in the
decoder; ours carry the side in pixels. Two of the published kernels are stored for a transposed
convolution: with in- and output channels exchanged, and rotated by 180 degrees.
"""

import re

from torch import Tensor

from pipeline.shape import Shape

TRANSPOSED_FROM = 128  # side of the output


def published_names(shape: Shape) -> dict[str, str]:
    """Our parameter name ("encoder.…", "decoder.…") to the published one with its module."""
    sides = shape.resolutions
    names = {"decoder.const": "decoder.const"}
    for level, side in enumerate(sides):
        i = len(sides) - 1 - level
        for tensor in ("weight", "bias"):
            names[f"encoder.from_rgb.{side}.{tensor}"] = f"encoder.from_rgb.{i}.from_rgb.{tensor}"
            names[f"decoder.to_rgb.{side}.{tensor}"] = f"decoder.to_rgb.{level}.to_rgb.{tensor}"
        for n in (1, 2):
            ours, theirs = f"encoder.blocks.{side}", f"encoder.encode_block.{i}"
            names[f"{ours}.conv_{n}"] = f"{theirs}.conv_{n}.weight"
            names[f"{ours}.bias_{n}"] = f"{theirs}.bias_{n}"
            for tensor in ("weight", "bias"):
                names[f"{ours}.style_{n}.{tensor}"] = f"{theirs}.style_{n}.{tensor}"
            ours, theirs = f"decoder.blocks.{side}", f"decoder.decode_block.{level}"
            if n == 2 or level:
                names[f"{ours}.conv_{n}"] = f"{theirs}.conv_{n}.weight"
            names[f"{ours}.modulation_{n}.noise"] = f"{theirs}.noise_weight_{n}"
            names[f"{ours}.modulation_{n}.bias"] = f"{theirs}.bias_{n}"
            for tensor in ("weight", "bias"):
                names[f"{ours}.modulation_{n}.style.{tensor}"] = f"{theirs}.style_{n}.{tensor}"
    for ours, theirs, layers in (
        ("encoder.posterior", "mapping_tl", shape.posterior_layers),
        ("decoder.mapping", "mapping_fl", shape.mapping_layers),
    ):
        for i in range(layers):
            for tensor in ("weight", "bias"):
                names[f"{ours}.{i}.{tensor}"] = f"{theirs}.map_blocks.{i}.fc.{tensor}"
    return names


def relayout(name: str, tensor: Tensor) -> Tensor:
    """Our kernel for the published one and back (the map is its own inverse); others unchanged."""
    found = re.fullmatch(r"decoder\.blocks\.(\d+)\.conv_1", name)
    if found and int(found[1]) >= TRANSPOSED_FROM:
        return tensor.transpose(0, 1).flip(2, 3)
    return tensor
