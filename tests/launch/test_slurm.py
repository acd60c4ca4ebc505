"""launch/slurm.py on four nodes: a training to its end, whatever happens to its processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import ROOT
from tests.stages.tiny import final_weights, journal, tiny, write

pytestmark = pytest.mark.slurm
LAST = 1792


@pytest.fixture(scope="module")
def config(dataset, tmp_path_factory) -> Path:
    """Two stages of 12 and 100 steps; every process needs its share of four micro-batches."""
    content = tiny(dataset)
    content["stages"][0]["images"], content["stages"][1]["images"] = 192, 1600
    content["every"] |= {"checkpoint": 160, "pictures": 0}
    return write(content, tmp_path_factory.mktemp("config") / "tiny.yaml")


def slurm(*arguments: object, **env: str) -> str:
    """Output of launch/slurm.py, which must succeed."""
    command = [sys.executable, "launch/slurm.py", "--gpus-per-node", "0", *map(str, arguments)]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=os.environ | env
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def whole(config, slurm_cluster, tmp_path_factory) -> tuple[Path, str]:
    """The run of four nodes that nothing disturbed, and what the command said."""
    folder = tmp_path_factory.mktemp("slurm-runs") / "whole"
    said = slurm("--nodes", 4, "--config", config, "--output", folder, "--follow")
    return folder, said


def test_four_nodes_train_two_stages_and_mlflow_holds_both(whole, slurm_cluster):
    folder, said = whole
    assert "4 nodes, 1 processes on each" in said and "COMPLETED" in said
    job = (folder / "slurm" / "job").read_text()
    nodes = slurm_cluster.run("sacct", "-X", "--noheader", "-o", "NNodes", "-j", job)
    assert nodes.split() == ["4"]
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("soft-introvae").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert set(runs) == {"tiny", "tiny 4x4", "tiny 8x8"}
    for side in (4, 8):
        distance = runs[f"tiny {side}x{side}"].data.metrics["fd_random_40"]
        assert distance > 0
        assert distance == runs["tiny"].data.metrics[f"fd_random_40/{side}"]
    assert runs["tiny"].data.tags["slurm.job_id"] == job


def test_dry_run_shows_the_script_and_the_configuration_and_starts_nothing(
    config, slurm_cluster, tmp_path
):
    said = slurm(
        *("--nodes", 2, "--config", config, "--output", tmp_path / "run", "--dry-run"),
        *("--time", "2:00:00", "--comment", "a night", "stages.1.lr=0.005"),
    )
    for line in ("nodes=2", "ntasks-per-node=1", "time=120", "requeue", "signal=USR2@120"):
        assert f"#SBATCH --{line}" in said
    assert "a night" in said and "lr: 0.005" in said
    assert not (tmp_path / "run").exists()
    assert slurm_cluster.run("squeue", "--noheader") == ""


def wait_for_images(cluster, folder: Path, images: int) -> None:
    path = folder / "metrics.jsonl"
    cluster.wait_until(
        lambda: path.exists() and f'"images": {images}' in path.read_text(), f"{images} images", 180
    )


def test_a_signal_and_a_dead_node_change_nothing(config, whole, slurm_cluster, tmp_path):
    folder = tmp_path / "run"
    arguments = ("--nodes", 4, "--config", config, "--output", folder)
    slurm(*arguments)
    job = (folder / "slurm" / "job").read_text()
    assert f"job {job} of this run is in the queue already" in slurm(*arguments)
    try:
        wait_for_images(slurm_cluster, folder, 320)
        slurm_cluster.run("scancel", "--signal=USR2", job)  # as before a time limit
        slurm_cluster.wait_until(lambda: state(slurm_cluster, job) == "PENDING", "a requeue", 120)
        wait_for_images(slurm_cluster, folder, 960)
        slurm_cluster.power_off(3)
        slurm_cluster.wait_until(lambda: state(slurm_cluster, job) == "PENDING", "a requeue", 120)
        slurm_cluster.power_on(3)
        follow = slurm(*arguments, "--follow")
        assert "COMPLETED" in follow
    finally:
        slurm_cluster.restore()
    said = (folder / "slurm" / f"{job}_0_log.out").read_text()
    assert "stopping on SIGUSR2" in said and said.count("continuing at") == 2
    assert final_weights(folder, LAST) == final_weights(whole[0], LAST)
    assert journal(folder, "loss_E") == journal(whole[0], "loss_E")


def state(cluster, job: str) -> str:
    return cluster.run("squeue", "--noheader", "-o", "%T", "-j", job)
