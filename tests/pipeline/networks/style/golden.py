"""The published networks' golden numbers, and what they were computed on (spec, section L)."""

import json
import math
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

from pipeline.networks.style.decoder import Decoder, style_layers
from pipeline.networks.style.encoder import Encoder
from pipeline.networks.style.published import published_names, relayout
from pipeline.networks.style.shape import Shape
from tests.pipeline.networks.fills import r

FIXTURES = json.loads((Path(__file__).parent / "style_fixtures.json").read_text())


def networks() -> tuple[Encoder, Decoder]:
    """Encoder and decoder of the published size in float64, filled as the fixtures were."""
    torch.set_default_dtype(torch.float64)
    try:
        encoder, decoder = Encoder(Shape()), Decoder(Shape())
    finally:
        torch.set_default_dtype(torch.float32)
    names = published_names(Shape())
    ours = {f"encoder.{n}": p for n, p in encoder.named_parameters()}
    ours |= {f"decoder.{n}": p for n, p in decoder.named_parameters()}
    assert sorted(names[n] for n in ours) == FIXTURES["param_order"]
    for name, p in ours.items():
        k = FIXTURES["param_order"].index(names[name])
        fill = r(k, *relayout(name, p).shape)
        if "noise" in name:
            fill = torch.zeros(fill.shape)
        elif name == "decoder.const":
            fill = 1 + 0.5 * fill
        elif p.dim() in (2, 4) and "bias" not in name:
            mapping = "mapping" in name or "posterior" in name
            fill = fill * math.sqrt(3) * p.lr_coefficient * (10 if mapping else 1)
        else:
            fill = 0.1 * fill
        p.data.copy_(relayout(name, fill))
    return encoder, decoder


class FixedDraws(TorchFunctionMode):
    """Replaces draws as the fixtures do: the posterior's by fill 1002 and the prior's by 1001,
    repeated where two batches of two images are passed through as one."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.randn:
            return r(1001, *args)
        if func is torch.randn_like:
            return r(1002, 2, args[0].shape[1]).repeat(len(args[0]) // 2, 1)
        return func(*args, **(kwargs or {}))


def fixed_noise(decoder: Decoder, count: int, resolution: int) -> list[torch.Tensor]:
    """Replaces `Decoder.draw_noise` as the fixtures do: fill 1004, repeated for each two images."""
    maps = []
    for row in range(style_layers(resolution)):
        side, batch = 4 << (row // 2), min(count, 2) if row else 1
        maps.append(r(1004, batch, 1, side, side).repeat(count // 2 if row else 1, 1, 1, 1))
    return maps
