"""launch/slurm.py on four nodes: a training to its end, whatever happens to its processes."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

import launch.slurm
from launch.submission import snapshot
from stages import plan
from stages.origin import version
from tests.cluster.tasks import tasks
from tests.conftest import ROOT
from tests.pipeline.data.server import Server
from tests.stages.tiny import final_weights, journal, run, tiny, write

pytestmark = pytest.mark.slurm
LAST = 1792


@pytest.fixture(scope="module")
def config(dataset, tmp_path_factory) -> Path:
    """Two stages of 12 and 100 steps; every process needs its share of four micro-batches."""
    content = tiny(dataset)
    content["stages"][0]["images"], content["stages"][1]["images"] = 192, 1600
    content["every"] |= {"checkpoint": 160, "pictures": 0}
    return write(content, tmp_path_factory.mktemp("config") / "tiny.yaml")


def command_of(*arguments: object) -> list[str]:
    return [sys.executable, "launch/slurm.py", "--gpus-per-node", "0", *map(str, arguments)]


def slurm(*arguments: object, ends: int = 0) -> str:
    """Output of launch/slurm.py, which must end with this status."""
    command = command_of(*arguments)
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert run.returncode == ends, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def whole(config, slurm_cluster, tmp_path_factory) -> tuple[Path, str]:
    """The run of four nodes that nothing disturbed, and what the command said.

    The shell that submits has variables of another process group, as inside a training.
    """
    folder = tmp_path_factory.mktemp("slurm-runs") / "whole"
    with pytest.MonkeyPatch.context() as shell:
        shell.setenv("MASTER_ADDR", "127.0.0.1")
        shell.setenv("MASTER_PORT", "0")
        said = slurm("--nodes", 4, "--config", config, "--output", folder, "--follow")
    return folder, said


def test_the_copy_of_the_code_knows_its_commit(tmp_path):
    snapshot(tmp_path / "code")
    copy = [sys.executable, "-c", "from stages.origin import version; print(version())"]
    run = subprocess.run(copy, cwd=tmp_path / "code", capture_output=True, text=True, check=True)
    assert run.stdout.strip() == (version() or "unknown")


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
        assert distance == runs["tiny"].data.metrics[f"fd_random_40/r{side:03}"]
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
    assert f"#SBATCH --chdir={tmp_path / 'run' / 'code'}" in said  # whence Python imports first
    assert "a night" in said and "lr: 0.005" in said
    assert not (tmp_path / "run").exists()
    assert slurm_cluster.run("squeue", "--noheader") == ""


def wait_for_images(cluster, folder: Path, images: int) -> None:
    path = folder / "metrics.jsonl"
    cluster.wait_until(
        lambda: path.exists() and f'"images": {images}' in path.read_text(), f"{images} images", 180
    )


def kill_a_process(cluster, job: str, number: int) -> None:
    """Sends a signal to the second task of a job."""
    os.kill(tasks(job, cluster.env["SLURM_CONF"])[1], number)


def test_a_signal_a_dead_node_and_a_dead_process_change_nothing(
    config, whole, slurm_cluster, tmp_path
):
    folder = tmp_path / "run"
    arguments = ("--nodes", 4, "--config", config, "--output", folder)
    slurm(*arguments)
    job = (folder / "slurm" / "job").read_text()
    again = subprocess.Popen(command_of(*arguments), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        wait_for_images(slurm_cluster, folder, 320)
        slurm_cluster.run("scancel", "--signal=USR2", job)  # as before a time limit
        slurm_cluster.wait_until(lambda: state(slurm_cluster, job) == "PENDING", "a requeue", 120)
        said_again, _ = again.communicate(timeout=120)
        assert f"job {job} of this run is already in the queue" in said_again
        wait_for_images(slurm_cluster, folder, 960)
        slurm_cluster.power_off(3)
        slurm_cluster.wait_until(lambda: state(slurm_cluster, job) == "PENDING", "a requeue", 120)
        slurm_cluster.power_on(3)
        wait_for_images(slurm_cluster, folder, 1280)
        kill_a_process(slurm_cluster, job, signal.SIGABRT)  # as NCCL's watchdog does
        slurm_cluster.wait_until(lambda: state(slurm_cluster, job) == "PENDING", "a requeue", 120)
        follow = slurm(*arguments, "--follow")
        assert "COMPLETED" in follow
    finally:
        slurm_cluster.restore()
    said = (folder / "slurm" / f"{job}_0_log.out").read_text()
    assert "stopping on SIGUSR2" in said and said.count("continuing at") == 3
    assert not list((folder / "slurm").glob("error-*"))
    assert final_weights(folder, LAST) == final_weights(whole[0], LAST)
    assert journal(folder, "loss_E") == journal(whole[0], "loss_E")


def test_streamed_from_the_web_a_killed_process_changes_nothing(dataset, slurm_cluster, tmp_path):
    made = tmp_path / "dataset"
    command = [sys.executable, "dataprep/shard.py", dataset.parent / "images", "--out", made]
    command += ["--max-resolution", "8", "--formats", "webdataset", "--shard-samples", "5"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    content = tiny(made, data__order="shards", data__window=2)
    content["stages"][1]["images"] = 640
    assert run(content, tmp_path / "files", 4) == [0] * 4
    folder = tmp_path / "web"
    try:
        with Server(made, host=slurm_cluster.host_address) as server:
            content["data"]["path"] = server.address
            config = write(content, tmp_path / "tiny.yaml")
            arguments = ("--nodes", 4, "--config", config, "--output", folder)
            slurm(*arguments)
            job = (folder / "slurm" / "job").read_text()
            wait_for_images(slurm_cluster, folder, 320)
            kill_a_process(slurm_cluster, job, signal.SIGKILL)
            assert "COMPLETED" in slurm(*arguments, "--follow")
    finally:
        slurm_cluster.restore()
    said = (folder / "slurm" / f"{job}_0_log.out").read_text()
    assert f"a process died (which, and of what: `srun: error:` in {job}_0_log.err)" in said
    assert "continuing at" in said
    assert "task 1: Killed" in (folder / "slurm" / f"{job}_0_log.err").read_text()
    assert final_weights(folder, 736) == final_weights(tmp_path / "files", 736)


def state(cluster, job: str) -> str:
    return cluster.run("squeue", "--noheader", "-o", "%T", "-j", job)


def test_an_error_of_its_own_and_scancel_end_a_job(config, slurm_cluster, tmp_path):
    folder = tmp_path / "diverges"
    arguments = ("--nodes", 2, "--config", config, "--output", folder)
    said = slurm(*arguments, "stages.0.lr=1e30", "--follow", ends=1)
    assert "FAILED (an error of its own); errors are in" in said and "is requeued" not in said
    errors = [path.read_text() for path in (folder / "slurm").glob("*_log.err")]
    assert any("DivergedError" in text for text in errors)
    assert list((folder / "slurm").glob("error-*-0"))  # srun's status may be another's
    folder = tmp_path / "cancelled"
    slurm("--nodes", 2, "--config", config, "--output", folder)
    job = (folder / "slurm" / "job").read_text()
    wait_for_images(slurm_cluster, folder, 320)
    slurm_cluster.run("scancel", job)
    slurm_cluster.wait_until(lambda: not state(slurm_cluster, job), "an end", 120)
    assert "CANCELLED" in slurm_cluster.run("sacct", "-X", "--noheader", "-o", "State", "-j", job)
    assert "requeued" not in (folder / "slurm" / f"{job}_0_log.out").read_text()


def test_a_sweep_killed_in_its_shared_part_and_in_a_branch_trains_each_image_once(
    dataset, slurm_cluster, tmp_path, monkeypatch, capsys
):
    """One job and an array of three that waits for it; what was cancelled, the same command
    continues."""
    content = tiny(dataset, evaluation__samples=16)
    content["every"] |= {"pictures": 0, "checkpoint": 0}
    content["stages"][0]["images"], content["stages"][1]["images"] = 1600, 1600
    swept = tmp_path / "swept"
    command = ["launch/slurm.py", "--gpus-per-node", "0", "--output", swept]
    command += ["--config", write(content, tmp_path / "tiny.yaml")]
    command += ["--sweep", "stages.1.lr=0.01,0.02,0.005"]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))

    def submit() -> str:
        launch.slurm.main()
        return capsys.readouterr().out

    shared = swept / "shared-000001600"
    points = [swept / name for name in ("lr=0.01", "lr=0.02", "lr=0.005")]

    said = submit()
    first, array = re.search(r"stop +scancel (\d+) (\d+)", said).groups()
    jobs = [(folder / "slurm" / "job").read_text() for folder in points]
    assert jobs == [f"{array}_{i}" for i in range(3)]
    waiting = ("squeue", "--noheader", "-r", "-o", "%T %r", "-j", array)
    slurm_cluster.wait_until(
        lambda: slurm_cluster.run(*waiting).splitlines() == ["PENDING Dependency"] * 3,
        "an array that waits", 20,
    )  # fmt: skip
    wait_for_images(slurm_cluster, shared, 320)
    slurm_cluster.run("scancel", first)
    slurm_cluster.wait_until(
        lambda: not any(state(slurm_cluster, job) for job in (first, array)), "an end", 60
    )
    assert 320 <= plan.position(shared) < 1600

    said = submit()
    assert re.search(rf"shared to 1,600 images +\(at [\d,]+ images, job {first} CANCELLED", said)
    killed = points[1]
    others = [(folder / "slurm" / "job").read_text() for folder in points[::2]]
    wait_for_images(slurm_cluster, killed, 1920)
    slurm_cluster.run("scancel", (killed / "slurm" / "job").read_text())
    slurm_cluster.wait_until(
        lambda: not state(slurm_cluster, (killed / "slurm" / "job").read_text()), "an end", 60
    )
    assert 1920 <= plan.position(killed) < 3200

    said = submit()
    assert re.search(r"lr=0.02 +\(at [\d,]+ images, job \S+ CANCELLED.*: continued", said)
    assert said.count("submitted job") == 1
    assert [(folder / "slurm" / "job").read_text() for folder in points[::2]] == others
    slurm_cluster.wait_until(
        lambda: not slurm_cluster.run("squeue", "--noheader"), "the end of all", 240
    )
    said = submit()
    assert said.count("(finished)") == 4 and "nothing to submit" in said
    seen = [images for folder in (shared, *points) for images, _ in journal(folder, "rec")]
    assert sorted(seen) == sorted([*range(16, 1601, 16), *(3 * [*range(1616, 3201, 16)])])
    assert len(seen) * 16 == 1600 + 3 * 1600
    assert len({journal(folder, "rec")[-1] for folder in points}) == 3
