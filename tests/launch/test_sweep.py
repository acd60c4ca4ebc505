"""Sweeps: one training for each combination, and what they share trained once."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launch import arguments, sweep
from pipeline.config import ConfigError
from stages import plan
from tests.stages.tiny import final_weights, journal, run, tiny, write

ROOT = Path(__file__).parents[2]


def parsed(config: Path, *words: str):
    parser = arguments.parser("")
    sweep.add_arguments(parser)
    return parser.parse_args(["--config", str(config), *words])


@pytest.fixture
def config(dataset, tmp_path) -> Path:
    content = tiny(dataset, evaluation__samples=16)
    for stage in content["stages"]:
        stage["images"], stage["fade"] = 48, 0
    return write(content, tmp_path / "tiny.yaml")


def test_points_are_all_combinations_named_by_what_differs(config):
    found = sweep.read(
        parsed(config, "--sweep", "seed=1,2", "--sweep", "objective.beta_rec=0.5,1,1")
    )
    assert [p.name for p in found.points] == [
        "seed=1 beta_rec=0.5", "seed=1 beta_rec=1", "seed=2 beta_rec=0.5", "seed=2 beta_rec=1",
    ]  # fmt: skip
    assert found.points[1].config.objective.beta_rec == 1 and found.points[1].config.seed == 1
    assert found.points[0].folder == Path("runs/tiny-sweep/seed=1,beta_rec=0.5").resolve()
    assert {p.config.sweep for p in found.points} == {"tiny-sweep"}
    assert found.shared is None and found.images == 4 * 96


def test_stages_before_the_first_that_differs_are_shared(config):
    found = sweep.read(parsed(config, "--sweep", "stages.1.lr=0.01,0.02,0.04"))
    assert [s.resolution for s in found.shared.config.stages] == [4]
    assert found.images == 48 + 3 * 48
    assert "192 images in all; one by one 288" in found.tree()
    assert sweep.read(parsed(config, "--sweep", "stages.0.lr=0.01,0.02")).shared is None


@pytest.mark.parametrize("text", ["seed", "seed=", "=1", "seed=,"])
def test_a_sweep_without_values_is_refused(config, text):
    with pytest.raises(ConfigError, match="should read key=value,value"):
        sweep.read(parsed(config, "--sweep", text))


def test_a_sweep_takes_no_branch(config):
    with pytest.raises(ConfigError, match="no --branch"):
        sweep.read(parsed(config, "--sweep", "seed=1,2", "--branch", "runs/other"))


@pytest.mark.long
def test_a_sweep_trains_the_shared_part_once_and_resumes(config, dataset, tmp_path):
    command = [
        sys.executable, "launch/local.py", "--config", str(config),
        "--output", str(tmp_path / "swept"), "--sweep",
    ]  # fmt: skip
    first = subprocess.run(
        [*command, "stages.1.lr=0.01,0.02"], cwd=ROOT, capture_output=True, text=True
    )
    assert first.returncode == 0, first.stdout + first.stderr
    again = subprocess.run(
        [*command, "stages.1.lr=0.01,0.02,0.04", "--dry-run"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert again.stdout.count("(finished)") == 2, again.stdout + again.stderr

    swept = tmp_path / "swept"
    runs = [path.parent for path in swept.glob("*/metrics.jsonl")]
    trained = {path.name: journal(path, "rec") for path in runs}
    images = {name: len(lines) * 16 for name, lines in trained.items()}
    assert images == {"shared-000000048": 48, "lr=0.01": 48, "lr=0.02": 48}
    assert plan.read(swept / "lr=0.01").origin.images == 48
    alone = yaml.safe_load(config.read_text())
    assert run(alone, tmp_path / "alone") == [0]
    assert final_weights(swept / "lr=0.01", 96) == final_weights(tmp_path / "alone", 96)
