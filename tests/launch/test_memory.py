"""Micro-batches that fit a GPU: chosen, kept by a run, and refused with the numbers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from launch import memory
from launch.memory import Card, of_nodes, sized
from pipeline import memory as counted
from pipeline import networks
from pipeline.config import ConfigError, load
from stages import plan
from stages.config import Config

CONFIGS = Path(__file__).parents[2] / "configs"
NOWHERE = Path("/nowhere")


def ffhq(**changes) -> Config:
    """The published training at 256x256 alone, without a micro_batch unless one is given."""
    config = load(Config, CONFIGS / "ffhq256.yaml", ["stages.6.fade=0"])
    return replace(config, stages=[replace(config.stages[6], **{"micro_batch": None} | changes)])


def test_the_published_configurations_name_their_micro_batches_and_keep_them():
    config = load(Config, CONFIGS / "ffhq256.yaml")
    same, lines = sized(config, NOWHERE, 4, Card(80, "h100"))
    assert same == config
    assert lines[0].startswith("4 processes; micro-batches x images of each in a step: 4x4 1 x 128")
    assert lines[1] == "memory: all steps fit 80 GiB (h100)"


@pytest.mark.long
@pytest.mark.parametrize(
    ("gib", "world", "images"), [(80, 1, 16), (80, 4, 4), (10, 1, 8), (7.5, 1, 4), (None, 2, 8)]
)
def test_a_micro_batch_is_the_most_that_fits(gib, world, images):
    config, lines = sized(ffhq(), NOWHERE, world, Card(gib, "a card"))
    assert config.stages[0].micro_batch == images
    assert lines[0] == f"micro_batch at 256x256: {images}"
    micro_batches = 16 // images // world
    assert f"256x256 {micro_batches} x {images}" in lines[1]
    assert ("not checked" in lines[2]) == (gib is None)


@pytest.mark.long
def test_a_step_that_does_not_fit_is_refused_with_the_numbers():
    config = ffhq(batch=128, images=1280, micro_batch=32)
    said = r"with a micro_batch of (\d+) in this stage it needs"
    with pytest.raises(ConfigError, match=rf"needs 18\.\d GiB .*micro_batch 32.*22 GiB.*{said}"):
        sized(config, NOWHERE, 4, Card(22, "an A10"))
    with pytest.raises(ConfigError, match="also one image at a time"):
        sized(ffhq(), NOWHERE, 1, Card(2, "a small one"))
    sized(config, NOWHERE, 4, Card(None, "who knows"))


@pytest.mark.long
def test_the_count_is_linear_and_within_its_bound():
    """Anchors: 9.5 GiB for 16 images in one micro-batch, 6.4 in two, 4.9 in four, 4.5 in eight."""
    shape, objective = ffhq().shape, ffhq().objective
    objective = replace(objective, beta_neg=512.0)  # as above, where it was counted
    step = counted.step(shape, objective, 256, "bf16", True)
    with torch.device("meta"):
        weights = 4 * sum(p.numel() for p in networks.build(shape).parameters())
    found = [step.of(n, 16 // n) - 4 * weights for n in (16, 8, 4, 2)]
    assert [f / 2**30 for f in found] == pytest.approx([9.5, 6.4, 4.9, 4.5], rel=0.12)
    assert step.of(16, 1) < counted.bound(shape, 256, 16)
    for images in (1, 512):
        step = counted.step(shape, objective, 4, "fp32", False)
        assert step.of(images, 1) < counted.bound(shape, 4, images)


def test_a_run_keeps_its_micro_batch_with_another_card(tmp_path):
    config, _ = sized(ffhq(), tmp_path, 4, Card(80, "h100"))
    plan.write(tmp_path, config)
    for folder, branch in ((tmp_path, None), (NOWHERE, f"{tmp_path}@16")):
        again, _ = sized(ffhq(), folder, 2, Card(80, "h100"), branch)
        assert again.stages[0].micro_batch == 4
    other, _ = sized(ffhq(batch=32), tmp_path, 2, Card(80, "h100"))
    assert other.stages[0].micro_batch == 16


@pytest.mark.parametrize(
    ("given", "gres", "gpus", "gib"),
    [
        (None, "gpu:h100:8(S:0-1)", 8, 80),
        (None, "gpu:nvidia_a100-sxm4-80gb:4", 4, 80),
        (None, "gpu:a100:4 gpu:h100:8", 4, 40),
        (48, "gpu:h100:8", 8, 48),
        (None, "gpu:2", 2, None),
        (None, "gpu:h100:8 gpu:mystery:2", 2, None),
        (None, "(null)", 0, None),
    ],
)
def test_the_memory_of_a_clusters_gpus(given, gres, gpus, gib):
    card = of_nodes(given, gres, gpus)
    assert card.gib == gib
    assert bool(card.source) == bool(gpus)


def test_batches_that_cannot_be_shared_are_named():
    with pytest.raises(ConfigError, match="3 processes cannot share a batch of 16 images"):
        sized(ffhq(), NOWHERE, 3, Card(80, "h100"))
    assert memory.here(2).gib > 0
