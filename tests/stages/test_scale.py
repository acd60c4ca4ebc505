"""`scale`: batches, rates and averages for more GPUs, and what one is."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from launch import arguments
from pipeline.config import ConfigError, load, parse, plain, read
from stages import schedule
from stages.config import Config
from stages.scale import scaled

CONFIGS = Path(__file__).parents[2] / "configs"
PUBLISHED = ("ffhq256", "celebahq256")


@pytest.mark.parametrize("name", PUBLISHED)
def test_scale_1_is_the_published_recipe(name):
    content = read(CONFIGS / f"{name}.yaml")
    assert scaled(content) == content
    assert scaled(content | {"scale": 1}) == content


@pytest.mark.parametrize("name", PUBLISHED)
def test_32_gpus_share_every_stage_and_images_stay(name):
    published = load(Config, CONFIGS / f"{name}.yaml")
    content = scaled(read(CONFIGS / f"{name}-32gpu.yaml"))
    config = parse(Config, content, name)
    config.check_processes(32)
    for before, stage in zip(published.stages, config.stages, strict=True):
        k = stage.batch / before.batch
        assert stage.batch == max(before.batch, 128)
        assert stage.images == pytest.approx(before.images, abs=64)
        assert stage.lr == pytest.approx(before.lr * min(2, math.sqrt(k)))
        engine = schedule.engine_of(config, stage)
        in_steps = -1 / math.log2(engine.beta_2)
        assert stage.batch * in_steps == pytest.approx(before.batch * -1 / math.log2(0.99))
        assert engine.eps == pytest.approx(1e-8 / math.sqrt(k))
        assert stage.warmup == (5000 if k > 1 else 0)
    last = config.stages[-1]
    assert (last.batch, last.micro_batch) == (128, 4)
    assert last.beta_2 == pytest.approx(0.923, abs=1e-3) and last.eps == pytest.approx(
        3.5e-9, rel=0.02
    )
    again = plain(replace(config, name=name, engine=replace(config.engine, zero_stage=1)))
    assert {**plain(published), "stages": 0} == {**again, "stages": 0}, "all else is as published"


def test_the_rate_rises_over_the_warm_up():
    config = parse(Config, scaled(read(CONFIGS / "ffhq256-32gpu.yaml")), "")
    first = schedule.total(config) - config.stages[-1].images
    rates = [schedule.at(config, first + n).lr for n in (0, 128, 4992, 5120, 100_096)]
    assert rates[:2] == [pytest.approx(0.004 * n / 5000) for n in (128, 256)]
    assert rates[2:] == [0.004] * 3


@pytest.mark.parametrize("scale", [0, -1, 1.5, "x", True])
def test_a_wrong_scale_is_named(scale):
    with pytest.raises(ConfigError, match=r"'scale' is .* whole number"):
        scaled(read(CONFIGS / "demo.yaml") | {"scale": scale})


@pytest.mark.parametrize("gpus", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", ["ffhq256", "ffhq256-32gpu"])
def test_no_number_of_nodes_is_silently_wasteful(name, gpus):
    config = parse(Config, scaled(read(CONFIGS / f"{name}.yaml")), name)
    for nodes in (1, 2, 3, 4, 8, 16, 32, 64):
        count, said = arguments.usable_gpus(config, nodes, gpus)
        assert 1 <= count <= gpus
        try:
            config.check_processes(nodes * count)
        except ValueError:
            continue  # `check` refuses it in its own words
        assert (f"{nodes * count} of {nodes * gpus} GPUs" in (said or "")) == (count < gpus)
