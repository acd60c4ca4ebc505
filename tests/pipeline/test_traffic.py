"""Bytes that a process sends per step, counted at 4, 32 and 256 processes."""

import pytest
import torch

from benchmarks.scaling import BYTES, sent_per_step
from pipeline.engines import Engine, EngineConfig
from pipeline.networks.style.autoencoder import Autoencoder
from pipeline.networks.style.shape import Shape
from tests.traffic import Traffic, fake_group

pytestmark = pytest.mark.long

SHAPE = Shape(resolution=16, latent=16, base_channels=8, max_channels=16, mapping_layers=2)
SIDE, ACCUMULATION = 8, 2


def step(config: EngineConfig) -> tuple[Traffic, list[int]]:
    """A step of both engines, and the number of elements of each."""
    parts = Autoencoder(SHAPE).parameters_at(SIDE)
    engines = [Engine(parameters, config, 1, ACCUMULATION) for parameters in parts]
    with Traffic() as traffic:
        for parameters, engine in zip(parts, engines, strict=True):
            for _ in range(ACCUMULATION):
                engine.accumulate(torch.stack([p.square().sum() for p in parameters]).sum())
    return traffic, [sum(p.numel() for p in parameters) for parameters in parts]


@pytest.mark.parametrize("reduce", ["fp32", "bf16"])
@pytest.mark.parametrize(("zero_stage", "overlap"), [(0, False), (1, False), (1, True), (2, True)])
def test_a_step_sends_what_is_calculated(zero_stage, overlap, reduce):
    config = EngineConfig("fp32", zero_stage, reduce, overlap)
    for world in (4, 32, 256):
        with fake_group(world):
            traffic, sizes = step(config)
            sent = traffic.sent
        assert sizes == [sum(p.numel() for p in n) for n in Autoencoder(SHAPE).parameters_at(SIDE)]
        calculated = [sent_per_step(size, config, ACCUMULATION, world) for size in sizes]
        # ZeRO pads groups of parameters to equal shares, and sums a norm.
        assert sum(map(sum, calculated)) <= sent < sum(map(sum, calculated)) + 4 * 4 * 10 * world
        gradients = sum(of_gradients for of_gradients, _ in calculated)
        if zero_stage < 2:
            assert gradients <= 2 * sum(sizes) * BYTES[reduce]
        else:
            assert gradients <= 2 * sum(sizes) * BYTES[reduce] * ACCUMULATION
        reductions = [size for name, size in traffic.rows if name == "allreduce" and size > 4]
        assert (len(reductions) > 4) == overlap, "reduced in parts only if they overlap"
