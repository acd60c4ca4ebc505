"""Checkpoints in the published layout, made from the specification's tables (A.5 to A.8, A.11)."""

import pickle
import sys
from pathlib import Path
from types import ModuleType

import torch

from pipeline.networks.style.shape import Shape

MODULES = {"encoder": "discriminator", "decoder": "generator"}


def shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Published names of the parameters to the shapes they are stored in."""
    levels, latent = len(shape.resolutions), shape.latent

    def c(i):  # channels, from the image side
        return min(shape.max_channels, shape.base_channels << i)

    found = {"decoder.const": (1, c(levels - 1), 4, 4)}
    for i in range(levels):
        inner, outer = c(i), c(i + 1)
        block, rgb = f"encoder.encode_block.{i}", f"encoder.from_rgb.{i}.from_rgb"
        found |= {f"{rgb}.weight": (inner, 3, 1, 1), f"{rgb}.bias": (inner,)}
        found |= {f"{block}.conv_1.weight": (inner, inner, 3, 3)}
        found |= {f"{block}.conv_2.weight": (outer, inner, 3, 3)}
        for n, width in ((1, inner), (2, outer)):
            found[f"{block}.bias_{n}"] = (1, width, 1, 1)
            found[f"{block}.style_{n}.weight"] = (latent, 2 * width)
            found[f"{block}.style_{n}.bias"] = (latent,)

        side, inner, outer = 4 << i, c(levels - i), c(levels - 1 - i)
        block, rgb = f"decoder.decode_block.{i}", f"decoder.to_rgb.{i}.to_rgb"
        found |= {f"{rgb}.weight": (3, outer, 1, 1), f"{rgb}.bias": (3,)}
        found |= {f"{block}.conv_2.weight": (outer, outer, 3, 3)}
        if i:
            transposed = side >= 128
            found[f"{block}.conv_1.weight"] = (
                (inner, outer, 3, 3) if transposed else (outer, inner, 3, 3)
            )
        for n in (1, 2):
            found[f"{block}.noise_weight_{n}"] = found[f"{block}.bias_{n}"] = (1, outer, 1, 1)
            found[f"{block}.style_{n}.weight"] = (2 * outer, latent)
            found[f"{block}.style_{n}.bias"] = (2 * outer,)
    widths = [latent] * shape.posterior_layers + [2 * latent]
    for i in range(shape.posterior_layers):
        found[f"mapping_tl.map_blocks.{i}.fc.weight"] = (widths[i + 1], latent)
        found[f"mapping_tl.map_blocks.{i}.fc.bias"] = (widths[i + 1],)
    for i in range(shape.mapping_layers):
        found[f"mapping_fl.map_blocks.{i}.fc.weight"] = (latent, latent)
        found[f"mapping_fl.map_blocks.{i}.fc.bias"] = (latent,)
    return found


def content(shape: Shape, *fills, alae: bool = False) -> dict:
    """A file's content; `fills` make each parameter of the raw and the averaged networks from its
    name and shape, None leaves them out."""
    models = {}
    for fill, ending in zip(fills, ("", "_s")):
        if fill is None:
            continue
        for name, size in shapes(shape).items():
            module, _, rest = name.partition(".")
            if alae and module == "mapping_tl":
                rest = rest.replace(".fc.", ".")
            key = MODULES.get(module, module) + ending
            models.setdefault(key, {})[rest] = fill(name, size)
        dtype = models["generator" + ending]["const"].dtype
        taps = torch.tensor([1.0, 2.0, 1.0], dtype=dtype) / 4
        for module, blocks, conv, dim in (
            ("discriminator", "encode_block", "conv_1", 0),
            ("generator", "decode_block", "conv_2", 0),
        ):
            state = models[module + ending]
            for i in range(len(shape.resolutions)):
                channels = state[f"{blocks}.{i}.{conv}.weight"].shape[dim]
                kernel = torch.outer(taps, taps).repeat(channels, 1, 1, 1)
                state[f"{blocks}.{i}.blur.weight"] = kernel
    rows = 2 * len(shape.resolutions)
    models["dlatent_avg"] = {"buff": torch.randn(1, shape.latent).repeat(rows, 1)}
    return {"models": models, "auxiliary": {"scheduler": {"a": {"last_epoch": 3}}}}


def random(_, size) -> torch.Tensor:
    return torch.randn(size)


def write(path: Path, content: dict, legacy: bool = False) -> Path:
    """Writes it as the published code does, with objects of its loss tracker."""
    tracker = ModuleType("tracker")
    for name in ("RunningMean", "RunningMeanTorch"):
        made = type(name, (), {"__init__": lambda self: setattr(self, "values", [torch.ones(2)])})
        made.__module__ = "tracker"
        setattr(tracker, name, made)
    tracks = {"loss": tracker.RunningMeanTorch(), "other": tracker.RunningMean()}
    content = {**content, "auxiliary": {**content["auxiliary"], "tracker": {"tracks": tracks}}}
    sys.modules["tracker"] = tracker
    try:
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    finally:
        del sys.modules["tracker"]
    return path


class Malicious:
    """Writes a file when it is unpickled freely."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pickled(path: Path, value) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=2))
    return path
