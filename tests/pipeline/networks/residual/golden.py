"""The published residual networks' golden numbers, and what they were computed on (spec G)."""

import json
import math
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

from pipeline.networks.residual import population
from pipeline.networks.residual.autoencoder import SETS, Autoencoder
from pipeline.networks.residual.shape import Shape
from tests.pipeline.networks.fills import r

FIXTURES = json.loads((Path(__file__).parent.parent / "image_fixtures.json").read_text())["conv"]
IMAGES = r(1003, 4, 3, 32, 32)  # in [-1, 1]; the published networks take them in [0, 1]


def networks(classes: int = 0, target: bool = False) -> Autoencoder:
    """Networks of the published size in float64, filled as the fixtures were."""
    torch.set_default_dtype(torch.float64)
    try:
        made = Autoencoder(Shape(classes=classes, target_every=50_000 if target else 0))
    finally:
        torch.set_default_dtype(torch.float32)
    parameters = dict(sorted(made.named_parameters()))
    assert list(parameters)[: len(FIXTURES["param_order"])] == FIXTURES["param_order"]
    for k, (name, p) in enumerate(parameters.items()):
        fill = r(k, *p.shape)
        if p.dim() > 1:
            gain = 0.2 if name == "encoder.fc.weight" else 0.5 if "predict" in name else 1
            fill = fill * math.sqrt(3) * gain / math.sqrt(p[0].numel())
        elif name.endswith("weight"):
            fill = 1 + 0.5 * fill
        else:
            fill = 0.1 * fill
        p.data.copy_(fill)
    return made


def running_statistics(made: Autoencoder) -> dict[str, torch.Tensor]:
    """Those that the fixtures' networks began with, as population statistics of every set."""
    found = {}
    for name, network in SETS.items():
        for key in population.names(getattr(made, network)):
            layer, _, kind = key.rpartition(".")
            running = {"mean": "running_mean", "variance": "running_var"}[kind]
            j = FIXTURES["buffer_order"].index(f"{network}.{layer}.{running}")
            fill = r(500 + j, made.get_submodule(f"{network}.{layer}").weight.numel())
            found[f"{name}.{key}"] = 0.1 * fill if kind == "mean" else 1 + 0.5 * fill
    return found


class FixedDraws(TorchFunctionMode):
    """Replaces draws as the fixtures do: the prior's by fill 1001, the posterior's by 1002."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.randn:
            return r(1001, *args)
        if func is torch.randn_like:
            return r(1002, 4, args[0].shape[1]).repeat(len(args[0]) // 4, 1)
        return func(*args, **(kwargs or {}))


def norm(tensors) -> float:
    return sum(t.square().sum().item() for t in tensors) ** 0.5
