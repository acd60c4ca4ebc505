"""Names and layouts of the published checkpoints, and ours (spec A.11).

The published names number blocks from the image side in the encoder and from the 4x4 side in the
decoder; our names contain the side in pixels. Two of the published kernels are stored for a
transposed convolution: input and output channels exchanged, and rotated by 180 degrees.

ALAE's checkpoints have the same names and layouts, as far as known. Its encoder outputs w, and the
module that computes mu and logvar in the Soft-IntroVAE is a discriminator without activations. Its
layers are not wrapped: `map_blocks.0.weight` instead of `map_blocks.0.fc.weight`. This
distinguishes the two kinds.
"""

import re

import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.networks.style.autoencoder import Autoencoder
from pipeline.networks.style.shape import Shape

TRANSPOSED_FROM = 128  # side of the output

MODULES = {  # prefix in the names, key of the module's state in `models`
    "encoder": "discriminator",
    "decoder": "generator",
    "mapping_tl": "mapping_tl",
    "mapping_fl": "mapping_fl",
}
EMA = "_s"  # suffix of the keys of the averaged modules


class LayoutError(Exception):
    """Tensors that are not a published model's; the message names found and missing tensors."""


def published_names(shape: Shape) -> dict[str, str]:
    """{our parameter name ("encoder.…", "decoder.…"): the published name with its module}."""
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
    """Converts a kernel between our and the published layout (an involution); others pass."""
    found = re.fullmatch(r"decoder\.blocks\.(\d+)\.conv_1", name)
    if found and int(found[1]) >= TRANSPOSED_FROM:
        return tensor.transpose(0, 1).flip(2, 3)
    return tensor


def kind_of(found: dict[str, Tensor]) -> str:
    """The kind of model of the tensors of `gather`: "soft-introvae" or "alae"."""
    return "alae" if "mapping_tl.map_blocks.0.weight" in found else "soft-introvae"


def layout(shape: Shape, kind: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """{our parameter name: (the published name, its shape)} for a model of `kind`."""
    with torch.device("meta"):
        ours = dict(Autoencoder(shape).named_parameters())
    names = published_names(shape)
    if kind == "alae":
        names = {o: re.sub(r"^(mapping_tl\..*)\.fc\.", r"\1.", t) for o, t in names.items()}
    return {name: (names[name], tuple(relayout(name, p).shape)) for name, p in ours.items()}


def blurs(shape: Shape) -> dict[str, int]:
    """{published name of a constant blur kernel: its channels}."""
    sides, found = shape.resolutions, {}
    for level, side in enumerate(sides):
        i = len(sides) - 1 - level
        found[f"encoder.encode_block.{i}.blur.weight"] = shape.channels(side)
        found[f"decoder.decode_block.{level}.blur.weight"] = shape.channels(side)
    return found


def blur_kernel(channels: int) -> Tensor:
    """[1, 2, 1] x [1, 2, 1] / 16 for each channel, (C, 1, 3, 3) (spec A.4)."""
    taps = torch.tensor([1.0, 2.0, 1.0])
    return (taps[:, None] * taps / 16).repeat(channels, 1, 1, 1)


def gather(models: dict, ending: str) -> dict[str, Tensor]:
    """The tensors of the four modules whose keys have `ending`, by prefixed name; {} if none has.

    Removes the prefix `module.` of DistributedDataParallel. LayoutError if some of the modules are
    missing.
    """
    keys = {prefix: key + ending for prefix, key in MODULES.items()}
    missing = [key for key in keys.values() if not isinstance(models.get(key), dict)]
    if len(missing) == len(keys):
        return {}
    if missing:
        raise LayoutError(
            f"of the modules {', '.join(keys.values())} there is no {', '.join(missing)}; "
            f"the file has: {', '.join(map(str, models))}"
        )
    return {
        f"{p}.{name.removeprefix('module.')}": t
        for p, key in keys.items()
        for name, t in models[key].items()
    }


def shape_of(found: dict[str, Tensor]) -> Shape:
    """The shape of the networks, from the tensors of `gather`. LayoutError."""

    def count(pattern: str) -> int:
        return len({m[1] for m in (re.match(pattern, name) for name in found) if m})

    levels = count(r"decoder\.to_rgb\.(\d+)\.")
    wanted = ["encoder.from_rgb.0.from_rgb.weight", "decoder.const"]
    wanted += ["mapping_fl.map_blocks.0.fc.weight"]
    missing = [name for name in wanted if name not in found]
    if missing or not levels:
        raise LayoutError(f"there is no {', '.join(missing or ['decoder.to_rgb.0'])}")
    rgb, const, mapping = (found[name] for name in wanted)
    try:
        return Shape(
            resolution=2 << levels,
            latent=mapping.shape[0],
            base_channels=rgb.shape[0],
            max_channels=const.shape[1],
            mapping_layers=count(r"mapping_fl\.map_blocks\.(\d+)\."),
            posterior_layers=count(r"mapping_tl\.map_blocks\.(\d+)\."),
        )
    except (ValidationError, IndexError) as error:
        raise LayoutError(f"the sizes of {', '.join(wanted)} are invalid: {error}") from None


def trained_resolution(ours: dict[str, Tensor], shape: Shape) -> int | None:
    """The largest side whose layers are trained; None if none is. `ours` has our names.

    A published training saves all layers from the start. Biases and noise weights are initialised
    to exactly 0 (spec A.2, A.7), also in the averages, and become nonzero with the first step.
    """
    for side in reversed(shape.resolutions):
        block = f"decoder.blocks.{side}.modulation_"
        if any(ours[f"{block}{n}.{kind}"].any() for n in (1, 2) for kind in ("bias", "noise")):
            return side
    return None


def from_published(found: dict[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """The tensors of `gather` under our names and in our layout; LayoutError."""
    expected = layout(shape, kind_of(found))
    sizes = {name: size for name, size in expected.values()}
    sizes |= {name: (channels, 1, 3, 3) for name, channels in blurs(shape).items()}
    missing = sorted(sizes.keys() - found.keys() - blurs(shape).keys())
    unknown = sorted(found.keys() - sizes.keys())
    wrong = [
        f"{name} {tuple(t.shape)} instead of {sizes[name]}"
        for name, t in found.items()
        if name in sizes and tuple(t.shape) != sizes[name]
    ]
    complaints = [
        f"{len(names)} {what}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of a wrong shape", wrong))
        if names
    ]
    if complaints:
        raise LayoutError(f"of {len(sizes)} tensors, " + "; ".join(complaints))
    for name, channels in blurs(shape).items():
        # Our blur is a constant: a file with another blur is another network.
        if name in found and not torch.equal(found[name].float(), blur_kernel(channels)):
            raise LayoutError(f"{name} is not [1, 2, 1] x [1, 2, 1] / 16")
    return {ours: relayout(ours, found[theirs]) for ours, (theirs, _) in expected.items()}


def to_published(tensors: dict[str, Tensor], shape: Shape, kind: str, ending: str) -> dict:
    """Part of `models`: `tensors`, ours, as state dicts under keys with `ending`."""
    models = {key + ending: {} for key in MODULES.values()}
    named = {t: relayout(o, tensors[o]).contiguous() for o, (t, _) in layout(shape, kind).items()}
    dtype = tensors["decoder.const"].dtype
    named |= {name: blur_kernel(channels).to(dtype) for name, channels in blurs(shape).items()}
    for name, tensor in named.items():
        prefix, _, rest = name.partition(".")
        models[MODULES[prefix] + ending][rest] = tensor
    return models
