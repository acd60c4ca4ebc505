"""Sweeps: one training for each combination, and what they share trained once."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dataprep import manifest
from launch import arguments, sweep, sweep_local, sweep_tree
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
    assert names(found) == [p.name for p in found.points], "nothing is shared"


def names(found: sweep.Sweep, parent: sweep.Part | None = None) -> list:
    """The tree: names, and of shared parts (name, what branches off)."""
    return [
        (part.folder.name, names(found, part)) if part.shared else part.name
        for part in found.children(parent)
    ]


def test_stages_before_the_first_that_differs_are_shared(config):
    found = sweep.read(parsed(config, "--sweep", "stages.1.lr=0.01,0.02,0.04"))
    assert names(found) == [("shared-000000048", ["lr=0.01", "lr=0.02", "lr=0.04"])]
    assert [s.resolution for s in found.parts[0].config.stages] == [4]
    assert [p.start for p in found.points] == [48] * 3
    text = sweep_tree.text(found, {})
    assert re.search(r" 192 .* in all\n +288 .* one by one: sharing saves 33% of the images", text)
    assert "times are known once" in text


def test_a_tree_has_as_many_levels_as_the_points_need(config):
    content = yaml.safe_load(config.read_text())
    content["stages"].append({**content["stages"][1], "resolution": 16})
    config.write_text(yaml.safe_dump(content))
    axes = ("seed=1,2", "stages.1.lr=0.1,0.2", "stages.2.beta_neg=4,8")
    found = sweep.read(parsed(config, *(word for axis in axes for word in ("--sweep", axis))))
    assert names(found)[1] == (
        "seed=2,shared-000000048",
        [
            (f"seed=2,lr={lr},shared-000000096",
             [f"seed=2 lr={lr} beta_neg=4", f"seed=2 lr={lr} beta_neg=8"])
            for lr in (0.1, 0.2)
        ],
    )  # fmt: skip
    assert [part.name for part in found.to_train()] == [part.name for part in found.parts]


@pytest.mark.parametrize(
    ("axis", "images"),
    [
        ("stages.1.images=48,96", 96),  # the shorter is the beginning of the longer
        ("stages.0.lr=0.01,0.02", 0),
        ("objective.beta_neg=4,8", 0),
        ("objective.beta_rec=1,2", 0),
        ("stages.1.micro_batch=2,4", 48),
        ("stages.1.beta_neg=4,8", 48),
        ("ema_half_life=100,200", 0),
    ],
)
def test_what_is_shared_is_computed_the_same(config, axis, images):
    found = sweep.read(parsed(config, "--sweep", axis))
    assert sum(plan_total(part) for part in found.parts if part.shared) == images


def test_data_sets_share_nothing(config, dataset, tmp_path):
    content = json.loads((dataset / manifest.NAME).read_text())
    manifest.write(tmp_path, content | {"digest": "0" * 64})
    found = sweep.read(parsed(config, "--sweep", f"data.path={dataset},{tmp_path}"))
    assert len(found.parts) == 2 and not any(part.shared for part in found.parts)


def plan_total(part: sweep.Part) -> int:
    return sum(stage.images for stage in part.config.stages)


def test_times_are_those_that_trainings_of_the_sweep_have_logged(config, tmp_path):
    found = sweep.read(
        parsed(config, "--output", str(tmp_path / "s"), "--sweep", "stages.1.lr=0.01,0.02")
    )
    rates = [(4, 16.0), (8, 4.0), (8, 12.0)]
    lines = [
        {"images": i * 24, "resolution": side, "images_per_second": rate}
        for i, (side, rate) in enumerate(rates)
    ]
    found.parts[0].folder.mkdir(parents=True)
    journal = "".join(json.dumps(line) + "\n" for line in lines)
    (found.parts[0].folder / "metrics.jsonl").write_text(journal)
    text = sweep_tree.text(found, {})
    assert re.search(r" 48 +3\.0 s  shared", text) and re.search(r" 48 +8\.0 s +lr=0.02", text)
    assert re.search(r" 144 +19\.0 s  in all\n +192 +22\.0 s  one by one: .* 14% of the time", text)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        *((text, "should read key=value,value") for text in ("seed", "seed=", "=1", "seed=,")),
        ("seed=1,01", "seed=1 and seed=01 are the same training"),
        ("evaluation.samples=16,32", "are the same training"),
        ("seed=1 seed=2", "names seed twice"),
        ("name=a,b", "no name"),
        ("stages.1.lr=0.1,x", "lr"),
    ],
)
def test_what_is_no_sweep_is_refused(config, texts, message):
    words = [word for text in texts.split(" ") for word in ("--sweep", text)]
    with pytest.raises(ConfigError, match=message):
        sweep.read(parsed(config, *words))


def test_a_sweep_takes_no_branch(config):
    with pytest.raises(ConfigError, match="no --branch"):
        sweep.read(parsed(config, "--sweep", "seed=1,2", "--branch", "runs/other"))


@pytest.mark.long
def test_a_sweep_trains_the_shared_part_once_and_tells_what_failed(config, tmp_path):
    swept = tmp_path / "swept"
    command = [sys.executable, "launch/local.py", "--config", str(config), "--output", str(swept)]
    command += ["--at-once", "2", "--sweep"]

    def call(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True)

    first = call("stages.1.lr=0.01,1e30")
    assert first.returncode == 1, first.stdout + first.stderr
    assert "2 trainings at once" in first.stdout and "lr=0.01: finished" in first.stdout
    assert "failed: lr=1e30: " in first.stdout and "Not finite" in first.stdout
    again = call("stages.1.lr=0.01,1e30,0.04", "--dry-run").stdout
    assert re.search(r"shared to 48 images +\(finished\)", again), again
    assert re.search(r"lr=0.01 +\(finished\)", again)
    assert re.search(r"lr=1e30 +\(at 48 images, failed, retried: .*Not finite", again)
    refused = call("stages.1.lr=0.01,1e30", "objective.beta_rec=2", "--dry-run")
    assert refused.returncode == 1 and "by another configuration" in refused.stderr

    images = {run.name: [i for i, _ in journal(run, "rec")] for run in swept.glob("*=0.01")}
    images |= {run.name: [i for i, _ in journal(run, "rec")] for run in swept.glob("shared*")}
    assert images == {"shared-000000048": [16, 32, 48], "lr=0.01": [64, 80, 96]}
    assert plan.read(swept / "lr=0.01").origin.images == 48
    alone = yaml.safe_load(config.read_text())
    assert run(alone, tmp_path / "alone") == [0]
    assert final_weights(swept / "lr=0.01", 96) == final_weights(tmp_path / "alone", 96)


def test_gpus_are_shared_out(config, monkeypatch):
    """8 GPUs and batches for four: two trainings at once; --at-once 8 gives one to each."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    shares = {}
    for at_once in (None, 8, 16):
        args = argparse.Namespace(
            **vars(parsed(config, "--sweep", "seed=1,2,3,4,5,6,7,8")), processes=None
        )
        args.at_once = at_once
        found, _ = sweep_local.shared_out(args, sweep.read(args).to_train())
        (processes,) = set(found.processes.values())
        shares[at_once] = (processes, found.at_once)
        last = found.environment(found.at_once - 1)["CUDA_VISIBLE_DEVICES"]
        assert last == {None: "4,5,6,7", 8: "7", 16: "7"}[at_once]
    assert shares == {None: (4, 2), 8: (1, 8), 16: (1, 8)}
