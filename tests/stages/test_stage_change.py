"""What a stage leaves behind does not reach into the next one."""

import gc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stages.stage import Stage
from tests.stages.test_processes import begin, fifty_steps
from tests.stages.tiny import run

pytestmark = pytest.mark.long


def collect_in_the_second_stage(folder: Path) -> None:
    """Python collects its garbage once, after the first step of the second stage."""
    gc.disable()
    step, seen = Stage.step, []

    def stepping(stage: Stage, moment):
        terms = step(stage, moment)
        if moment.number == 1 and not seen:
            seen.append(gc.collect())
        return terms

    Stage.step = stepping


def adams_v(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(max((folder / "checkpoints").iterdir()) / "optimizer.safetensors")


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory) -> dict[str, torch.Tensor]:
    """v of the second stage where nothing is sharded."""
    return two_stages(dataset, tmp_path_factory.mktemp("runs") / "run", zero_stage=0)


def two_stages(dataset: Path, folder: Path, zero_stage: int) -> dict[str, torch.Tensor]:
    content = fifty_steps(dataset, engine__zero_stage=zero_stage, vae_images=0)
    for stage in content["stages"]:
        stage["images"] = 64
    content["evaluation"]["samples"] = 16
    begin(folder, content)
    assert run(content, folder, 2, before=collect_in_the_second_stage) == [0, 0]
    return adams_v(folder)


@pytest.mark.parametrize("zero_stage", [1, 2])
def test_v_is_whole_in_checkpoints_of_the_second_stage(dataset, whole, tmp_path, zero_stage):
    found = two_stages(dataset, tmp_path / "run", zero_stage)
    assert found.keys() == whole.keys() and any("blocks.8" in name for name in found)
    for name, v in whole.items():
        torch.testing.assert_close(found[name], v, rtol=1e-2, atol=1e-4 * v.max().item())
