"""launch/slurm.py --check, --rehearse and --per-stage on four nodes."""

import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from benchmarks.scaling import measured
from tests.launch.test_slurm import slurm, state
from tests.stages.tiny import final_weights, journal, tiny, write

pytestmark = pytest.mark.slurm


def on_node(cluster, node: int, *command: str) -> None:
    subprocess.run(cluster._hosts[f"node{node}"].inside(*command), check=True)


def test_a_check_names_the_node_that_lacks_the_data(dataset, slurm_cluster, tmp_path):
    """In a folder, and for a training, whose names a shell would not take as they are."""
    config = write(tiny(dataset), tmp_path / "tiny.yaml")
    folder = tmp_path / 'it\'s a "run"; $(touch ran) `touch ran` &'
    command = ("--nodes", 2, "--config", config, "--output", folder, "--check")
    command += ('name=it\'s "tiny" $(touch ran); touch ran', "--comment", "a 'b' \"c\" $d")
    on_node(slurm_cluster, 2, "mount", "-t", "tmpfs", "tmpfs", str(dataset))
    try:
        said = slurm(*command, ends=1)
    finally:
        on_node(slurm_cluster, 2, "umount", str(dataset))
    wrong = [line for line in said.splitlines() if "WRONG" in line]
    assert len(wrong) == 2 and "WRONG: node2, process 1: " in wrong[0]
    assert "manifest.json does not exist" in wrong[0] and "data differs: " in wrong[1]
    for node in (1, 2):
        assert f"  node{node}: 1 x CPU, " in said
    assert 'check for it\'s "tiny" $(touch ran); touch ran: processes 2, nodes 2' in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]


def test_a_rehearsal_runs_on_the_nodes_asked_for(dataset, slurm_cluster, tmp_path):
    config = write(tiny(dataset), tmp_path / "tiny.yaml")
    said = slurm("--nodes", 2, "--config", config, "--output", tmp_path / "run", "--rehearse")
    assert "rehearsal of tiny: processes 2, nodes 2, CPU, fp32" in said
    rows = {cells[0]: cells for cells in map(str.split, said.splitlines()) if cells}
    for side in ("4x4", "8x8"):
        hours, node_hours, slowest = float(rows[side][6]), float(rows[side][7]), rows[side][10]
        assert node_hours == pytest.approx(2 * hours, rel=0.01) and slowest in ("node1,", "node2,")
    assert float(rows["whole"][3]) > float(rows["whole"][2]) > 0
    found = [(stage.config, stage.processes, stage.resolution) for stage in measured(said)]
    assert found == [("tiny", 2, 4), ("tiny", 2, 8)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]


def jobs(folder: Path) -> list[str]:
    """The jobs of a run, by stage."""
    return [line.split()[0] for line in (folder / "slurm" / "job").read_text().splitlines()]


def test_each_stage_has_a_job_of_its_own_and_the_same_command_resumes_in_the_middle(
    dataset, slurm_cluster, tmp_path
):
    content, folder = tiny(dataset), tmp_path / "run"
    content["every"] |= {"pictures": 0}
    content["stages"][1]["images"] = 1600
    config = write(content, tmp_path / "tiny.yaml")
    command = ("--per-stage", "--nodes", "1,2", "--config", config, "--output", folder)
    slurm(*command)
    chain = jobs(folder)
    slurm_cluster.run("scancel", chain[0])
    for job in chain:  # one that waits for a cancelled one is removed, too
        slurm_cluster.wait_until(lambda job=job: not state(slurm_cluster, job), "an end", 120)
    said = slurm(*command)
    first, second = jobs(folder)
    assert f"scancel {first} {second}\n" in said and "differ in their last bits" in said
    assert state(slurm_cluster, second) == "PENDING"
    path = folder / "metrics.jsonl"
    slurm_cluster.wait_until(
        lambda: path.exists() and '"images": 320' in path.read_text(), "the second stage", 240
    )
    slurm_cluster.run("scancel", second)
    slurm_cluster.wait_until(lambda: not state(slurm_cluster, second), "an end", 120)
    said = slurm(*command)
    assert "4x4: 1 nodes, 1 processes on each, finished" in said
    assert said.count("submitted job") == 1
    (third,) = jobs(folder)
    slurm_cluster.wait_until(lambda: not state(slurm_cluster, third), "the end", 300)
    output = (folder / "slurm" / f"{third}_0_log.out").read_text()
    assert "continuing at" in output
    for job, nodes in ((first, "1"), (second, "2"), (third, "2")):
        assert slurm_cluster.run("sacct", "-Xno", "NNodes", "-j", job) == nodes
    assert {images for images, _ in journal(folder, "processes")} == {*range(16, 1697, 16)}
    assert [n for images, n in journal(folder, "processes") if images in (96, 112)] == [1, 2]
    assert final_weights(folder, 1696)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("soft-introvae").experiment_id
    runs = {run.info.run_name: run.info.status for run in client.search_runs([experiment])}
    assert runs == dict.fromkeys(("tiny", "tiny 4x4", "tiny 8x8"), "FINISHED")
